"""One run of one task in this process, and the table of all of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from opentelemetry.trace import Span

from schemas.task import Task
from service import traces
from service.registry import Handler

STUBBORN_SECONDS = 10.0
"""How long after its hard timeout a run that does not stop keeps its claim."""


class Stop(StrEnum):
    """Why a run was told to stop."""

    TIMEOUT = "timeout"
    LOST = "lost"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"


@dataclass(eq=False)
class Run:
    """A claimed task under way, from its claim until its end is written."""

    task: Task
    handler: Handler
    renew_until: float
    """Monotonic seconds after which the heartbeat leaves it alone: past its hard timeout and a grace."""
    job: "asyncio.Task[None] | None" = None
    stopped: Stop | None = None
    cancel_requested: bool = False
    ended: bool = False
    """Its outcome is known, or of no interest any more."""
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    claim: Span | None = None
    span: Span | None = None
    """Those of its claim and of itself, where traces are recorded."""

    @property
    def id(self) -> str:
        return self.task.id

    @property
    def token(self) -> str:
        assert self.task.claim_token is not None
        return self.task.claim_token

    @property
    def trace_id(self) -> str | None:
        return traces.trace_id(self.claim) if self.claim is not None else traces.trace_id_of(self.task.traceparent)

    def stop(self, why: Stop) -> None:
        """Cancel the handler, once."""
        if self.stopped is None and not self.ended:
            self.stopped = why
            if self.job is not None:
                self.job.cancel()


class Runs(dict[str, Run]):
    """Task id → run. Changed by the event loop's thread only; the heartbeat thread takes whole copies."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, Sequence[str]] = {}
        """Token → the task ids of a claim that is under way. While a handler blocks the loop its answer cannot be taken
        up, and what it claimed is not to go stale."""

    def claims(self, now: float) -> dict[str, str]:
        """Task id → token of every run whose claim is still to be renewed."""
        return {run.id: run.token for run in list(self.values()) if now < run.renew_until}

    def perhaps_claimed(self) -> dict[str, str]:
        """Task id → token of what a claim under way may have claimed by now."""
        return {task_id: token for token, task_ids in list(self.asked.items()) for task_id in task_ids}
