"""What is done with dead letters in heaps: look, replay at a bounded rate, throw away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from schemas.dead_letter import (
    DeadGroups,
    Discarded,
    Matches,
    Refusal,
    ReplayOrder,
    ReplayRequest,
    ReplayState,
    Selection,
)
from schemas.task import Task, TaskStatus
from service.client import Client
from service.errors import Conflict, NotFound
from service.registry import Registry
from service.store.port import DeadFilter, Page, Store

REPLAY = "verger.replay"
"""The task type that replays: a task of ours, so that it survives its worker, shows its progress and can be stopped."""
COUNTED = 100_000
"""Where counting stops; also how many of the newest are grouped."""
GROUPS = 200
"""How many groups are told at most."""
DISCARDED_AT_ONCE = 10_000
"""How many one request discards at most: some seconds."""
PAGE = 200
SAMPLE = 10
SHOWN = 20
"""How many refusals are kept."""
SHOWN_CHARACTERS = 180
"""Of a body in the history."""
STEPS_A_SECOND = 10
LOOK_SECONDS = 0.25
"""How often it is looked how a canary does."""

Say = Callable[[ReplayState], Awaitable[None]]


class DeadLetters:
    """For the API, the command line and the worker that replays."""

    def __init__(self, store: Store, client: Client, registry: Registry) -> None:
        self._store, self._client, self._registry = store, client, registry

    # ---- looking -------------------------------------------------------------------------------------------------

    async def page(self, task_type: str | None, fingerprint: str | None, *, limit: int, cursor: str | None) -> Page:
        """Newest first. Raises InvalidInput for a cursor that is none."""
        return await self._store.dead.find(self._filter(task_type, fingerprint), limit=limit, cursor=cursor)

    async def groups(self, task_type: str | None = None, fingerprint: str | None = None) -> DeadGroups:
        """By fingerprint and type; of the newest 100,000, the 200 largest groups."""
        return await self._store.dead.groups(self._filter(task_type, fingerprint), newest=COUNTED, most=GROUPS)

    async def matches(self, selection: Selection) -> Matches:
        """What a selection means now."""
        if selection.ids is not None:
            dead, refused = await self._by_id(selection.ids)
            return Matches(count=len(dead), sample=dead[:SAMPLE], refused=refused)
        which = self._filter(selection.task_type, selection.fingerprint)
        count = await self._store.dead.count(which, COUNTED)
        sample = (await self._store.dead.find(which, limit=SAMPLE)).tasks
        return Matches(count=count, complete=count < COUNTED, sample=sample)

    # ---- throwing away -------------------------------------------------------------------------------------------

    async def discard(self, selection: Selection, reason: str, by: str) -> Discarded:
        """They end as cancelled, ``discarded``, the reason in their history; at most 10,000 at once."""
        text = f"{reason} (by {by})"
        if selection.ids is not None:
            dead, refused = await self._by_id(selection.ids)
            gone = await self._store.dead.discard([task.id for task in dead], text)
            refused += [Refusal(id=task.id, problem="was changed meanwhile") for task in dead if task.id not in gone]
            return Discarded(discarded=len(gone), refused=refused)
        which = self._filter(selection.task_type, selection.fingerprint, await self._store.sync_clock())
        count, cursor = 0, None
        left: list[Refusal] = []
        while True:
            page = await self._store.dead.find(which, limit=PAGE, cursor=cursor)
            gone = await self._store.dead.discard([task.id for task in page.tasks], text)
            count += len(gone)
            left += [_refusal(task) for task in page.tasks if task.id not in gone]
            cursor = page.cursor
            if cursor is None or count >= DISCARDED_AT_ONCE:
                return Discarded(discarded=count, refused=left[:SHOWN], more=cursor is not None)

    # ---- replaying -----------------------------------------------------------------------------------------------

    async def order(self, request: ReplayRequest, by: str) -> Task:
        """Enqueue the task that replays them. Raises NotFound, and Conflict when none of the ids can be replayed."""
        dead, refused = await self._by_id(request.ids or ())
        if request.ids is not None and not dead:
            raise Conflict("; ".join(f"{each.id}: {each.problem}" for each in refused[:3]))
        # The server's own time: what has died a moment ago is dated by it, and is meant too.
        until = await self._store.sync_clock()
        order = ReplayOrder(
            ids=[task.id for task in dead] or None,
            task_type=self._canonical(request.task_type),
            fingerprint=request.fingerprint,
            rate=request.rate,
            first=request.first,
            stop_above=request.stop_above,
            until=until,
            by=by,
            refused=refused,
        )
        return await self._client.enqueue(REPLAY, order)

    async def edit(self, task_id: str, body: dict[str, Any], by: str) -> tuple[Task, Task]:
        """Replay one with another body, at once: it as it was, and as it is.

        Raises NotFound; Conflict as ``Client.replay``; InvalidInput when the handler's model refuses the body.
        """
        before = await self._client.get(task_id)
        note = f"with another body, by {by}: {_short(before.task_body)} → {_short(body)}"
        return before, await self._client.replay(task_id, body=body, note=note)

    async def replay(self, order: ReplayOrder, state: ReplayState | None, say: Say) -> ReplayState:
        """Carry an order out, from where ``state`` says that it got to.

        ``say`` is told after each step, and may raise to end it: what is done then is done. A store or a broker that is
        away ends it too, with Unavailable.
        """
        if state is None:
            meant = (
                len(order.ids) if order.ids is not None else await self._store.dead.count(self._meant(order), COUNTED)
            )
            refused = order.refused
            state = ReplayState(total=meant + len(refused), refused=len(refused), refusals=refused[:SHOWN])
            await say(state)
        pace = _Pace(order.rate)
        if order.first is not None and state.canary_failed is None:
            state = await self._canary(order, state, pace, say)
            if state.stopped is not None:
                return state
        async for tasks, cursor in self._walk(order, state.cursor):
            state = state.model_copy(update={"cursor": cursor})
            ahead = set(state.canary)
            todo = [task for task in tasks if task.id not in ahead]
            for start in range(0, len(todo), pace.step):
                state = await self._step(todo[start : start + pace.step], order, state, pace)
                await say(state)
        return state

    async def _canary(self, order: ReplayOrder, state: ReplayState, pace: "_Pace", say: Say) -> ReplayState:
        """The first few, and how they end. Too many failures are known before the last of them has ended."""
        assert order.first is not None
        async for tasks, _ in self._walk(order, None):
            for task in tasks:
                # A message that was no task leaves its dead letter as it is, and so tells nothing.
                if len(state.canary) >= order.first or task.payload is not None:
                    continue
                after = await self._step([task], order, state, pace)
                # What is refused here is met again, and counted, with the rest.
                if after.replayed > state.replayed:
                    state = after.model_copy(update={"canary": [*state.canary, task.id]})
                    await say(state)
            if len(state.canary) >= order.first:
                break
        while True:
            ends = await self._store.tasks.get_many(state.canary)
            failed = sum(task.status is TaskStatus.FAILED for task in ends.values())
            if failed > order.stop_above * len(state.canary):
                why = f"{failed} of the first {len(state.canary)} failed again"
                return state.model_copy(update={"canary_failed": failed, "stopped": why})
            if all(task.status.finished for task in ends.values()):
                return state.model_copy(update={"canary_failed": failed})
            await say(state)
            await asyncio.sleep(LOOK_SECONDS)

    async def _step(self, tasks: Sequence[Task], order: ReplayOrder, state: ReplayState, pace: "_Pace") -> ReplayState:
        await pace.wait(len(tasks))
        answers = await asyncio.gather(*(self._replay(task, order.by) for task in tasks), return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        state = state.model_copy(
            update={
                "replayed": state.replayed + sum(answer is None for answer in answers),
                "refused": state.refused + len(refusals),
                "refusals": [*state.refusals, *refusals][:SHOWN],
            }
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return state

    async def _replay(self, task: Task, by: str) -> Refusal | None:
        try:
            await self._client.replay(task.id, note=f"by {by}")
        except (NotFound, Conflict) as error:
            return Refusal(id=task.id, problem=str(error))
        return None

    async def _walk(self, order: ReplayOrder, cursor: str | None) -> AsyncIterator[tuple[list[Task], str | None]]:
        """What is still dead of what was meant, page by page, each with the cursor that leads to it."""
        if order.ids is not None:
            for start in range(int(cursor or 0), len(order.ids), PAGE):
                found = await self._store.tasks.get_many(order.ids[start : start + PAGE])
                yield [task for task in found.values() if _meant(task, order.until)], str(start)
            return
        while True:
            page = await self._store.dead.find(self._meant(order), limit=PAGE, cursor=cursor)
            yield page.tasks, cursor
            if page.cursor is None:
                return
            cursor = page.cursor

    def _meant(self, order: ReplayOrder) -> DeadFilter:
        return self._filter(order.task_type, order.fingerprint, order.until)

    # ---- selecting -----------------------------------------------------------------------------------------------

    def _filter(self, task_type: str | None, fingerprint: str | None, until: datetime | None = None) -> DeadFilter:
        return DeadFilter(self._canonical(task_type), fingerprint, until)

    def _canonical(self, task_type: str | None) -> str | None:
        handler = self._registry.find(task_type) if task_type is not None else None
        return handler.task_type if handler is not None else task_type

    async def _by_id(self, ids: Sequence[str]) -> tuple[list[Task], list[Refusal]]:
        found = await self._store.tasks.get_many(ids) if ids else {}
        dead, refused = [], []
        for task_id in dict.fromkeys(ids):
            task = found.get(task_id)
            if task is None:
                refused.append(Refusal(id=task_id, problem="there is no such task"))
            elif task.status is not TaskStatus.FAILED or task.relay_at is not None:
                refused.append(_refusal(task))
            else:
                dead.append(task)
        return dead, refused


def _short(body: dict[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _meant(task: Task, until: datetime) -> bool:
    return task.status is TaskStatus.FAILED and task.finished_at is not None and task.finished_at <= until


def _refusal(task: Task) -> Refusal:
    if task.status is not TaskStatus.FAILED:
        return Refusal(id=task.id, problem=f"is {task.status}, no dead letter")
    if task.relay_at is not None:
        return Refusal(id=task.id, problem="is not on the dead-letter exchange yet; try again in a few seconds")
    return Refusal(id=task.id, problem="was changed meanwhile")


class _Pace:
    """So many a second and no more. What an outage held up is not made up for in a burst."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.step = max(1, int(rate / STEPS_A_SECOND))
        """How many go together: ten steps a second keep to any rate."""
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()

    async def wait(self, count: int) -> None:
        """Until so many may go."""
        now = self._loop.time()
        if self._next > now:
            await asyncio.sleep(self._next - now)
        self._next = max(now, self._next) + count / self._rate
