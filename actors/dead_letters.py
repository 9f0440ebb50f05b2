"""``verger.replay``: the task that replays dead letters. Every worker takes it, whatever ``VERGER_TYPES`` says."""

import asyncio
from typing import Any

from actors.worker.context import Context
from actors.worker.declare import actor
from schemas.dead_letter import ReplayOrder, ReplayState
from service.dead_letters import REPLAY, DeadLetters
from service.log_events import LogEvent

SAVE_SECONDS = 1.0
RESOURCE = "verger.dead_letters"
"""What the worker opens for it."""


@actor(REPLAY, max_attempts=None, timeout="7d", concurrency=4, delays=["1s", "5s", "30s"])
async def replay(body: ReplayOrder, ctx: Context) -> dict[str, Any]:
    """Replay dead letters at the rate that was asked for."""
    dead_letters: DeadLetters = ctx.resources[RESOURCE]
    saver = _Saver(ctx)
    begun = ReplayState.model_validate(ctx.task.checkpoint) if ctx.task.checkpoint is not None else None
    state = await dead_letters.replay(body, begun, saver.say)
    ctx.log.info(LogEvent.LETTERS_REPLAYED, by=body.by, replayed=state.replayed, refused=state.refused)
    return state.model_dump(mode="json", by_alias=True, exclude={"cursor"})


class _Saver:
    """Keeps how far it is: at once when a canary is on its way, else once a second."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._saved_at, self._canary = float("-inf"), 0

    async def say(self, state: ReplayState) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._saved_at >= SAVE_SECONDS or len(state.canary) != self._canary:
            self._saved_at, self._canary = now, len(state.canary)
            await self._ctx.save(state.model_dump(mode="json", by_alias=True))
        done = state.replayed + state.refused
        waits = bool(state.canary) and state.canary_failed is None
        message = f"waiting for the first {len(state.canary)}" if waits else None
        await self._ctx.progress(done, max(state.total, done), message)
