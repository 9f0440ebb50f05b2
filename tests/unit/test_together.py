"""Calls that are made together: who waits, who is served with whom, whose error is whose."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from service.errors import InvalidInput, StoreUnavailable
from service.together import MOST, Together


class Door:
    """Doubles numbers once it is opened; notes its groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.open = asyncio.Event()
        self.refused: int | None = None
        self.away = False
        self.together = Together(self.act)

    async def act(self, numbers: Sequence[int]) -> list[int]:
        self.groups.append(list(numbers))
        await self.open.wait()
        if self.away:
            raise StoreUnavailable("away")
        if self.refused in numbers:
            raise InvalidInput("number", self.refused, "is refused", "give another")
        return [2 * number for number in numbers]

    def ask(self, *numbers: int) -> "list[asyncio.Task[int]]":
        return [asyncio.create_task(self._ask(number)) for number in numbers]

    async def _ask(self, number: int) -> int:
        return await self.together(number)


async def turn() -> None:
    """What is ready runs."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_call_on_its_own_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    door = Door()
    first = door.ask(1)
    await turn()
    rest = door.ask(2, 3, 4)
    await turn()
    assert door.groups == [[1]]

    door.open.set()

    assert await asyncio.gather(*first, *rest) == [2, 4, 6, 8]
    assert door.groups == [[1], [2, 3, 4]]
    assert await door.together(5) == 10


async def test_a_group_is_bounded() -> None:
    door = Door()
    asked = door.ask(*range(MOST + 1))
    await turn()
    door.open.set()
    await asyncio.gather(*asked)
    assert [len(group) for group in door.groups] == [MOST, 1]


async def test_a_refusal_is_told_to_the_one_it_concerns_and_the_others_are_served() -> None:
    door = Door()
    door.refused = 3
    door.ask(1)
    await turn()
    asked = door.ask(2, 3, 4)
    door.open.set()

    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert answers[0] == 4 and answers[2] == 8
    assert isinstance(answers[1], InvalidInput)
    assert door.groups[1:] == [[2, 3, 4], [2], [3], [4]]


async def test_servers_that_are_away_are_asked_once_for_the_group_and_all_are_told() -> None:
    door = Door()
    door.away = True
    first = door.ask(1)
    await turn()
    asked = door.ask(2, 3)
    door.open.set()
    for each in (*first, *asked):
        with pytest.raises(StoreUnavailable):
            await each
    assert door.groups == [[1], [2, 3]]


async def test_a_caller_that_goes_away_before_its_turn_is_not_served_and_costs_the_others_nothing() -> None:
    door = Door()
    first, gone, other = door.ask(1, 2, 3)
    await turn()
    door.groups.clear()
    under_way = door.ask(4)
    gone_later = door.ask(5)
    await turn()
    gone_later[0].cancel()
    gone.cancel()
    door.open.set()

    assert await asyncio.gather(first, other, *under_way) == [2, 6, 8]
    assert not any(5 in group for group in door.groups)
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_what_surrounds_the_first_caller_does_not_surround_what_is_done_for_all() -> None:
    """Its log fields, its deadline: a busy service would never be out of them again."""
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    surrounded: list[str] = []

    async def act(numbers: Sequence[int]) -> Sequence[int]:
        surrounded.append(caller.get())
        return numbers

    caller.set("the first")

    assert await Together(act)(1) == 1
    assert surrounded == ["nobody"]


async def test_a_loop_that_ends_leaves_nobody_waiting() -> None:
    door = Door()
    asked = door.ask(1)
    await turn()
    asked += door.ask(2)
    await turn()
    serving = door.together._serving
    assert serving is not None
    serving.cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in answers)
    door.open.set()
    assert await door.together(3) == 6
