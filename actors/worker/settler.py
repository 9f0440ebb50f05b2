"""Writes the ends of runs, many at once, and tells the world: the store first, then the broker (P6, P8)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from actors.base import Actor
from actors.mailbox import Mailbox
from actors.worker.run import Run, Runs
from schemas.event import Event, EventName
from schemas.outcome import Completed, Failed, Outcome
from schemas.task import Task, TaskStatus
from service.broker.port import Broker
from service.envelope import dead_letter, for_stored, waits_in_store
from service.errors import StoreUnavailable
from service.log_events import LogEvent
from service.metrics import Metrics
from service.states import RELAY_SLACK, Move, Seen, relay_at, settle
from service.store.port import Changed, Refused, RelayMove, RunEnd, Settled, Settlement, Store

log = structlog.get_logger()

MOST = 500
"""How many ends one bulk write takes."""
EVERY_SECONDS = 0.02
"""Ends are written at most so often, since a write of twenty costs little more than of one; after a rest, at once."""
_TAKEN = frozenset({*LogEvent.TASK_FINISHED.fields, "self", "method_name", "event", "level", "timestamp", "logger"})
_TAKEN |= {"exception", "exc_info", "stack", "stack_info", "traceback"}
"""What a result must not call its numbers in the log: these are of the line, or of the call that writes it."""


@dataclass(slots=True)
class End:
    """A run that has ended, on its way into the store."""

    run: Run
    outcome: Outcome
    seen: Seen
    duration_ms: int
    move: Move | None = None
    settlement: Settlement | None = None


class Settler(Actor):
    """Takes what has ended since its last write: the busier the worker, the larger the batch."""

    name = "settler"

    def __init__(self, store: Store, broker: Broker, runs: Runs, metrics: Metrics, worker: str) -> None:
        self._store, self._broker, self._runs, self._metrics, self._worker = store, broker, runs, metrics, worker
        self._mailbox: Mailbox[End] = Mailbox()
        self._stopping = False

    def put(self, run: Run, outcome: Outcome) -> None:
        """Hand in the end of a run."""
        milliseconds = round((asyncio.get_running_loop().time() - run.started) * 1000)
        self._mailbox.put(End(run, outcome, Seen(), milliseconds))

    def stop(self) -> None:
        self._stopping = True
        self._mailbox.ring()

    @property
    def backlog(self) -> int:
        return len(self._mailbox)

    async def run(self) -> None:
        pause = 0.2
        loop = asyncio.get_running_loop()
        next_at = 0.0
        while True:
            if not len(self._mailbox):
                if self._stopping:
                    return
                await self._mailbox.wait()
                continue
            if (rest := next_at - loop.time()) > 0:
                await asyncio.sleep(rest)
            next_at = loop.time() + EVERY_SECONDS
            ends = self._mailbox.take(MOST)
            try:
                await self._settle(ends)
                pause = 0.2
            except StoreUnavailable as error:
                # The claims stay renewed while the heartbeat gets through; if they go stale, the write will be refused.
                log.warning(LogEvent.STORE_UNAVAILABLE, error=str(error), waiting=len(ends) + len(self._mailbox))
                self._mailbox.put_back(ends)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
            except BaseException:
                self._mailbox.put_back(ends)
                raise

    async def _settle(self, ends: list[End]) -> None:
        todo = ends
        while todo:
            now = self._store.clock.now()
            for end in todo:
                end.move = settle(end.outcome, end.run.task, end.seen, now)
                end.settlement = self._settlement(end, end.move, now)
            answers = await self._store.claims.settle([end.settlement for end in todo if end.settlement])
            again = []
            written = []
            for end, answer in zip(todo, answers, strict=True):
                match answer:
                    case Settled():
                        written.append(end)
                        self._forget(end.run)
                    case Changed(seen=seen):
                        end.seen = seen
                        again.append(end)
                    case Refused():
                        self._refused(end)
            await self._publish(written)
            todo = again

    def _settlement(self, end: End, move: Move, now: datetime) -> Settlement:
        task = end.run.task
        due: dict[str, object] = {}
        if move.retry_at is not None:
            due = {
                "retry_at": move.retry_at,
                "relay_at": relay_at(now, move.retry_at, published=not waits_in_store(move.retry_at, now)),
            }
        elif move.status is TaskStatus.FAILED:
            due = {"relay_at": now + RELAY_SLACK}
        return Settlement(
            id=task.id,
            token=end.run.token,
            move=move,
            seen=end.seen,
            result=end.outcome.result if isinstance(end.outcome, Completed) else None,
            worker=self._worker,
            fence=task.fence,
            **due,  # type: ignore[arg-type]
        )

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.id) is run:
            del self._runs[run.id]

    def _refused(self, end: End) -> None:
        self._forget(end.run)
        self._metrics.writes_refused.add(end.run.task.task_type)
        log.warning(
            LogEvent.TASK_REFUSED,
            task_type=end.run.task.task_type,
            id=end.run.id,
            attempt=end.run.task.attempt,
            fence=end.run.task.fence,
            reason="the claim was lost; another run's outcome stands",
        )

    async def _publish(self, ends: Sequence[End]) -> None:
        """Retries to the delay ladder, dead letters to their exchange; what is not confirmed relay brings (P11,
        P13)."""
        now = self._store.clock.now()
        publications = []
        dead = []
        for end in ends:
            self._report(end)
            assert end.move is not None and end.settlement is not None
            if end.move.status is TaskStatus.PENDING:
                task = self._as_settled(end)
                if not waits_in_store(task.retry_at, now):
                    publications.append(for_stored(task, now))
            elif end.move.status is TaskStatus.FAILED:
                dead.append(self._as_settled(end))
        await self._record_runs([end for end in ends if end.run.task.schedule_id is not None])
        if publications or dead:
            confirmed = await self._broker.publish([*publications, *(dead_letter(task) for task in dead)])
            there = [task for task, sure in zip(dead, confirmed[len(publications) :], strict=True) if sure]
            if there:
                await self._store.upkeep.relay_move([RelayMove(task, None) for task in there])

    @staticmethod
    def _as_settled(end: End) -> Task:
        move, settlement = end.move, end.settlement
        assert move is not None and settlement is not None
        return end.run.task.model_copy(
            update={
                "status": move.status,
                "relay_at": settlement.relay_at,
                "retry_at": settlement.retry_at or end.run.task.retry_at,
                "last_error": move.error or end.run.task.last_error,
                "reason": move.reason,
            }
        )

    async def _record_runs(self, ends: Sequence[End]) -> None:
        now = self._store.clock.now()
        done = [
            RunEnd(end.run.task.schedule_id, end.run.id, end.move.status, now, end.duration_ms)
            for end in ends
            if end.move is not None and end.run.task.schedule_id is not None and end.move.status.finished
        ]
        if done:
            await self._store.schedules.record_runs(done)

    def _report(self, end: End) -> None:
        """The log line and the event of a settled run."""
        move, task = end.move, end.run.task
        assert move is not None
        status, event = _names(move)
        self._metrics.tasks_finished.add(task.task_type, status)
        self._metrics.run_seconds.observe(end.duration_ms / 1000, task.task_type)
        counts = {name: number for name, number in _counts(end.outcome).items() if name not in _TAKEN}
        fields = {
            "task_type": task.task_type,
            "id": task.id,
            **({"schedule_id": task.schedule_id} if task.schedule_id else {}),
            "attempt": task.attempt,
            "status": status,
            "duration_ms": end.duration_ms,
            **({"reason": move.reason} if move.reason else {}),
            **({"trace_id": trace_id} if (trace_id := end.run.trace_id) else {}),
        }
        if isinstance(end.outcome, Failed):
            fields |= {"error": end.outcome.error.message, "error_type": end.outcome.error.type}
            if end.outcome.reason == "timeout":
                log.warning(
                    LogEvent.TASK_TIMED_OUT, task_type=task.task_type, id=task.id, limit_seconds=task.timeout_seconds
                )
        if status == "dead_letter":
            self._metrics.dead_letters.add(task.task_type)
            trace = end.outcome.error.traceback if isinstance(end.outcome, Failed) else None
            log.error(LogEvent.TASK_FAILED, **fields, traceback=trace)
        retry = {"retry_at": move.retry_at.isoformat()} if move.retry_at and status == "retry" else {}
        log.info(LogEvent.TASK_FINISHED, **counts, **fields, **retry)
        self._broker.emit(
            lambda: Event(
                event=event,
                at=self._store.clock.now(),
                task_id=task.id,
                task_type=task.task_type,
                schedule_id=task.schedule_id,
                worker=self._worker,
                detail={"attempt": task.attempt, "durationMs": end.duration_ms, "reason": move.reason},
            )
        )


def _names(move: Move) -> tuple[str, EventName]:
    match move.status:
        case TaskStatus.COMPLETED:
            return "success", EventName.TASK_COMPLETED
        case TaskStatus.FAILED:
            return "dead_letter", EventName.TASK_FAILED
        case TaskStatus.CANCELLED:
            return "cancelled", EventName.TASK_CANCELLED
        case _:
            return (
                "again" if move.new_run else "retry" if move.failed else move.event or "retry",
                EventName.TASK_RETRYING,
            )


def _counts(outcome: Outcome) -> dict[str, object]:
    """The plain numbers of a result, for the log line."""
    if not isinstance(outcome, Completed) or not isinstance(outcome.result, dict):
        return {}
    numbers = {str(key): value for key, value in outcome.result.items() if isinstance(value, (int, float))}
    return dict(list(numbers.items())[:20])
