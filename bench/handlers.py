"""What Verger's workers run in the benchmark. Each counts itself; see ``bench/counting.py``."""

import asyncio
from typing import Any

from actors import actor
from bench.counting import count, count_from

NAP_SECONDS = 0.01


@actor("bench.noop")
async def noop(body: dict[str, Any]) -> None:
    """Nothing but to be counted."""
    count()


@actor("bench.nap")
async def nap(body: dict[str, Any]) -> None:
    """10 ms of waiting, as for a server that answers."""
    await asyncio.sleep(NAP_SECONDS)
    count()


@actor("bench.timed")
async def timed(body: dict[str, Any]) -> None:
    """``{"planned": monotonic seconds}``: how long after that instant it starts."""
    count_from(body["planned"])
