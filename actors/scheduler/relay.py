"""Relay, the outbox: publish what the store holds and the broker does not, without amplifying a backlog (P11, P12,
P13)."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from actors.scheduler.duty import NAP, Duty, until
from schemas.task import Task
from schemas.worker import TaskTypeState
from service.broker.port import Broker
from service.envelope import dead_letter, for_stored, marker
from service.log_events import LogEvent
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from service.states import RELAY_SLACK, relay_at
from service.store.port import RelayMove, Store

log = structlog.get_logger()

BATCH = 500
MOST = 5000
"""How many of a type one look publishes."""
BLOCKED = timedelta(seconds=5)
"""How soon a type with a backlog is looked at again."""


class Relay(Duty):
    """Type by type, oldest first. An empty queue says that all is published; a marker says it of a full one."""

    name = "relay"

    def __init__(
        self,
        store: Store,
        broker: Broker,
        registry: Registry,
        metrics: Metrics,
        settings: Settings,
        nap: timedelta = NAP,
    ) -> None:
        self._store, self._broker, self._registry, self._metrics = store, broker, registry, metrics
        self._grace = settings.unknown_type_grace
        self._nap = nap

    async def tick(self) -> timedelta:
        await self._dead_letters()
        now = self._store.clock.now()
        heads = await self._store.upkeep.relay_heads()
        due = [task_type for task_type, at in heads.items() if at <= now]
        self._metrics.relay_lag.set(max((now - heads[each] for each in due), default=timedelta()).total_seconds())
        states = await self._store.upkeep.type_states() if due else {}
        waits = [until(at, now) for at in heads.values() if at > now]
        for task_type in due:
            if self._registry.find(task_type) is not None or await self._consumed_elsewhere(task_type):
                waits.append(await self._relay(task_type, states.get(task_type), now))
            else:
                waits.append(await self._unknown(task_type, now))
        return min([self._nap, *waits])

    # ---- a known type ----------------------------------------------------------------------------

    async def _relay(self, task_type: str, state: TaskTypeState | None, now: datetime) -> timedelta:
        empty = await self._broker.depth(task_type) == 0
        seen = state.marker_seen_at if state else None
        if seen is not None and (state is None or state.marker_sent_at is None or seen > state.marker_sent_at):
            seen = None  # not one of ours
        # What was published before a marker that a worker has met has no message any more.
        cutoff = now if empty else min(now, seen + RELAY_SLACK) if seen is not None else None
        published = await self._publish_due(task_type, cutoff) if cutoff is not None else 0
        if published >= MOST:
            return timedelta()
        if empty:
            return self._nap
        if await self._store.upkeep.take_marker(task_type, now):
            await self._broker.publish([marker(task_type, now)])
        return BLOCKED

    async def _publish_due(self, task_type: str, cutoff: datetime) -> int:
        count = 0
        while count < MOST:
            tasks = await self._store.upkeep.relay_due(task_type, cutoff, BATCH)
            now = self._store.clock.now()
            moves = [RelayMove(task, relay_at(now, task.retry_at, published=True)) for task in tasks]
            # The time is moved first: another scheduler that looks meanwhile leaves them alone.
            moved = await self._store.upkeep.relay_move(moves) if moves else []
            mine = [task for task, done in zip(tasks, moved, strict=True) if done]
            if mine:
                self._metrics.relayed.add(self._metrics.type(task_type), by=len(mine))
                log.info(LogEvent.RELAY_PUBLISHED, task_type=task_type, count=len(mine))
                await self._broker.publish([for_stored(task, now) for task in mine])
            count += len(tasks)
            if len(tasks) < BATCH:
                break
        return count

    # ---- an unknown type -------------------------------------------------------------------------

    async def _consumed_elsewhere(self, task_type: str) -> bool:
        """A worker of a newer release may know it already."""
        since = self._store.clock.now() - timedelta(minutes=2)
        return any(task_type in worker.task_types for worker in await self._store.workers.alive(since))

    async def _unknown(self, task_type: str, now: datetime) -> timedelta:
        tasks = await self._store.upkeep.relay_due(task_type, now, BATCH)
        waiting = [task for task in tasks if self._deadline(task) > now]
        for task in tasks:
            if self._deadline(task) <= now:
                await self._give_up(task, now)
        if waiting:
            # Looked at again before its grace is over: a roll-out may be done sooner.
            moves = [RelayMove(task, min(now + NAP, self._deadline(task))) for task in waiting]
            await self._store.upkeep.relay_move(moves)
        return timedelta() if len(tasks) == BATCH else self._nap

    def _deadline(self, task: Task) -> datetime:
        """Counted from when it could have run: a delay, a retry and a replay have their grace too."""
        return max(task.created_at, task.retry_at) + self._grace

    async def _give_up(self, task: Task, now: datetime) -> None:
        message = (
            f"no handler for task type {task.task_type!r} came up within {self._grace}; load its module and replay"
        )
        if await self._store.upkeep.give_up(task, "unknown_type", message, now):
            self._metrics.dead_letters.add(self._metrics.type(task.task_type))
            log.error(
                LogEvent.TASK_FAILED, task_type=task.task_type, id=task.id, status="dead_letter", reason="unknown_type"
            )

    # ---- dead letters ----------------------------------------------------------------------------

    async def _dead_letters(self) -> None:
        """To their exchange, whatever waits in the queue of their type."""
        now = self._store.clock.now()
        while tasks := await self._store.upkeep.dead_due(now, BATCH):
            published = await self._publish_dead(tasks, now)
            if len(tasks) < BATCH or not published:
                return

    async def _publish_dead(self, tasks: Sequence[Task], now: datetime) -> int:
        moves = [RelayMove(task, now + RELAY_SLACK) for task in tasks]
        moved = await self._store.upkeep.relay_move(moves)
        mine = [
            task.model_copy(update={"relay_at": now + RELAY_SLACK})
            for task, done in zip(tasks, moved, strict=True)
            if done
        ]
        confirmed = await self._broker.publish([dead_letter(task) for task in mine]) if mine else []
        there = [task for task, sure in zip(mine, confirmed, strict=True) if sure]
        if there:
            await self._store.upkeep.relay_move([RelayMove(task, None) for task in there])
        return len(there)
