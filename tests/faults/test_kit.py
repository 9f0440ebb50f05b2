"""The kit itself: it sees what must not be, and its proxy does what it says."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.faults.kit.invariants import Findings, follow
from tests.faults.kit.oplog import State
from tests.faults.kit.page import page
from tests.faults.kit.proxy import Proxy, Toxic
from tests.faults.kit.record import Result

PENDING = State("pending", 0, 0, 3, None, again=False)
FIRST = State("running", 1, 1, 3, "a", again=False)
SECOND = State("running", 2, 2, 3, "b", again=False)
BETWEEN = State("pending", 1, 1, 3, "a", again=False)
DONE = State("completed", 1, 1, 3, "a", again=False)


def findings(*states: State, may_rise: bool = False) -> Findings:
    found = Findings()
    follow(found, "task", states, may_rise)
    return found


@pytest.mark.parametrize(
    "states",
    [
        [PENDING, FIRST, DONE],
        [FIRST, DONE],
        [PENDING, FIRST, BETWEEN, SECOND],
        [PENDING, State("cancelled", 0, 0, 3, None, again=False)],
    ],
)
def test_an_orderly_life_is_clean(states: list[State]) -> None:
    assert findings(*states).clean


def test_a_claim_of_what_is_claimed_is_found() -> None:
    assert findings(PENDING, FIRST, SECOND).doubled == ["task"]


def test_a_second_end_is_found() -> None:
    late = State("failed", 1, 1, 3, "a", again=False)
    assert findings(PENDING, FIRST, DONE, late).doubled == ["task"]


def test_a_rise_from_an_end_is_found_unless_it_was_asked_for() -> None:
    assert findings(FIRST, DONE, BETWEEN).broken
    assert findings(FIRST, DONE, BETWEEN, may_rise=True).clean


def test_a_fence_that_does_not_count_the_claim_is_found() -> None:
    assert findings(PENDING, State("running", 0, 1, 3, "a", again=False)).broken


def test_an_attempt_above_the_ceiling_is_found() -> None:
    assert findings(PENDING, State("running", 1, 4, 3, "a", again=False)).broken


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that says what it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_the_proxy_delays_slices_holds_and_resets(echo: int) -> None:
    with Proxy(echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        loop = asyncio.get_running_loop()

        proxy.set(Toxic(latency=0.2, slice=3))
        asked = loop.time()
        writer.write(b"0123456789")
        async with asyncio.timeout(60):
            assert await reader.readexactly(10) == b"0123456789"
        assert loop.time() - asked >= 0.4
        assert proxy.counts["sliced"] >= 1

        proxy.partition()
        writer.write(b"later")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.readexactly(5)
        assert proxy.counts["held"] == 1
        proxy.clear()
        async with asyncio.timeout(60):
            assert await reader.readexactly(5) == b"later"

        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


def test_the_page_sums_up_what_was_recorded() -> None:
    versions = {"RabbitMQ": "4.0.5", "MongoDB": "6.0.16"}
    results = [
        Result("Broker", "a | b", "all went on", "seen", seconds, 10, 0, 0, 7, "now", versions)
        for seconds in (1.0, 2.0, 9.0)
    ]

    said = page(results)

    assert "**1 faults, 3 results, 30 tasks: 0 lost, 0 accepted twice.**" in said
    assert "| a / b (seed 7) | 4.0.5 | all went on | seen | p50 2.0 s, max 9.0 s | 30 | 0 | 0 |" in said
