"""Handlers as an author writes them: batches with a checkpoint, steering, a plain function, something they share.

Run them beside Verger's own:

    export PYTHONPATH=. VERGER_ACTORS=actors.sessions,examples.jobs
    make run
"""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel, Field

from actors import Context, Discard, Retry, actor, resource
from service.settings import Settings


class Shelf:
    """Stands for a database of yours. It refuses a write that is older than what it has."""

    def __init__(self) -> None:
        self._pages: dict[str, tuple[int, str]] = {}

    def put(self, name: str, fence: int, text: str) -> bool:
        """Whether it was kept."""
        if fence < self._pages.get(name, (0, ""))[0]:
            return False
        self._pages[name] = (fence, text)
        return True


@resource("shelf")
async def shelf(settings: Settings) -> AsyncIterator[Shelf]:
    """Opened when a worker starts; what follows the ``yield`` runs when it stops."""
    yield Shelf()


class Digest(BaseModel):
    topic: str = Field(min_length=1)
    notes: int = Field(250, ge=0, le=100_000)


@actor("digest.build", aliases=["Build Digest"], max_attempts=5, timeout="10m", concurrency=4, unique=True)
async def build_digest(body: Digest, ctx: Context) -> dict[str, Any]:
    """Read notes in batches; an attempt goes on where the last one stopped."""
    begin = ctx.task.checkpoint or 0
    done = begin
    async for batch in ctx.batches(range(begin, body.notes), size=50, total=body.notes - begin):
        done += len(batch)
        await ctx.save(done)
    kept = ctx.resources["shelf"].put(body.topic, ctx.fence, f"{done} notes")
    return {"notes": done, "begun_at": begin, "kept": kept}


class Letter(BaseModel):
    to: str
    busy: int = Field(0, ge=0)
    """How many attempts find the mail server busy."""


@actor("letter.send", max_attempts=4, delays=["10s", "1m", "10m"], non_retryable=[ValueError])
async def send_letter(body: Letter, ctx: Context) -> None:
    """Fail in each of the ways there are."""
    if "@" not in body.to:
        raise ValueError(f"{body.to!r} is no address")  # no attempt can help: a dead letter at once
    if body.to.endswith("@example.invalid"):
        raise Discard("that domain has no mail")  # not worth doing: ends cancelled
    if ctx.attempt <= body.busy:
        raise Retry("the mail server is busy")  # again, after the next of the delays
    ctx.log.info("letter.sent", to=body.to)


class Text(BaseModel):
    text: str


@actor("words.count")
def count_words(body: Text, ctx: Context) -> dict[str, int]:
    """A plain function runs in a thread. It cannot be interrupted, so it looks whether it should stop."""
    counts: Counter[str] = Counter()
    for word in body.text.split():
        if ctx.cancel_requested:
            break
        counts[word] += 1
    ctx.from_thread(ctx.progress(counts.total(), counts.total()))
    return {"words": counts.total(), "different": len(counts)}
