"""Processes whose wall clock is wrong, by libfaketime; their monotonic clock is right, as it is everywhere."""

import os
import select
import time
from pathlib import Path
from typing import SupportsIndex


def faked(**how: str) -> dict[str, str]:
    """The environment of such a process; ``how`` is FAKETIME, or where that is read."""
    [library] = Path("/usr").glob("lib*/*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **how}


def mend_sleep() -> None:
    """Where the clock is faked, let threads sleep.

    Python sleeps until a moment of the monotonic clock, which libfaketime 0.9.10 takes for one of the wall clock: each
    sleep fails with EINVAL, and with it the driver's threads that look after the servers.
    """
    if "libfaketime" in os.environ.get("LD_PRELOAD", ""):
        time.sleep = _sleep


def _sleep(seconds: SupportsIndex | float) -> None:
    select.select((), (), (), float(seconds))
