"""A handler that fails until its mood gets better: for tests that replay dead letters."""

import time
from typing import Any, ClassVar

from pydantic import BaseModel

from actors import actor


class Mood:
    """Whether ``api.moody`` succeeds, and when it did: for all runs in this process."""

    good = False
    started: ClassVar[list[float]] = []


class Moody(BaseModel):
    n: int = 0
    how: str = ""


@actor("api.moody", max_attempts=1)
async def moody(body: Moody) -> dict[str, Any]:
    """Fail in one of two ways, unless the mood is good."""
    Mood.started.append(time.monotonic())
    if Mood.good:
        return {"n": body.n}
    if body.how:
        raise ValueError(body.how)
    raise RuntimeError(f"in a bad mood at {body.n}")
