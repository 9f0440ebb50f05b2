"""Wall clocks that are ten minutes wrong, and that jump while the process runs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from schemas.schedule import Overlap, Schedule
from schemas.task import TaskStatus
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check, check_fires
from tests.faults.kit.record import Recorder
from tests.promises.installation import STALE_SECONDS
from tests.promises.wrong_clock import faked

JUMPS = ("+600s", "-600s", "+0s", "-7200s", "+7200s")
"""How wrong the clock is from then on."""
SIZES = (600, -1200, 600, -7200, 14400)
"""By how many seconds it jumps."""
GRACE = timedelta(seconds=100)
"""More than a busy machine makes a fire late, less than any jump."""
SLACK = 240
"""Seconds that may truly lie between two lines of a log."""


class Clock:
    """The wall clock of a process, set from outside at any time; its monotonic clock is right, as it is everywhere."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set("+0s")

    def set(self, offset: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(offset)
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return faked(FAKETIME_TIMESTAMP_FILE=str(self._file), FAKETIME_NO_CACHE="1")


@pytest.mark.long
@pytest.mark.parametrize("whose", ["scheduler", "worker", "both"])
async def test_a_clock_that_jumps_misses_no_fire_rescues_nothing_alive_and_runs_nothing_early(
    fleet: Fleet, record: Recorder, whose: str, tmp_path: Path
) -> None:
    clock = Clock(tmp_path / "clock")
    faked = {role: clock.environment if whose in (role, "both") else {} for role in ("scheduler", "worker")}
    patience = {
        "VERGER_STALE_CLAIM_TIMEOUT": f"{10 * STALE_SECONDS}s"
    }  # a jump's retries of the store are no staleness
    processes = [await fleet.start(role, environment=patience | wrong) for role, wrong in faked.items()]
    start, every = fleet.store.clock.now().replace(microsecond=0) + timedelta(seconds=3), timedelta(seconds=1)
    schedule = Schedule(
        id="each",
        task_type="fault.work",
        schedule="@every 1s",
        overlap=Overlap.ALLOW,
        misfire_grace=GRACE,
        next_fire_at=start,
    )
    await fleet.store.schedules.write([schedule])
    await fleet.client.schedules_changed()
    ids = await fleet.enqueue(15, seconds=25)  # they run through all jumps
    delayed = await fleet.client.enqueue("fault.work", {}, delay="20s")

    jumped = [process for process, wrong in zip(processes, faked.values(), strict=True) if wrong]
    for number, jump in enumerate(JUMPS, 1):
        clock.set(jump)
        fired = fleet.tasks.count_documents({"scheduleId": "each", "status": "completed"})
        await fleet.until(
            lambda before=fired: (  # type: ignore[misc]
                fleet.tasks.count_documents({"scheduleId": "each", "status": "completed"}) >= before + 4
            ),
            f"fires after the jump to {jump}",
        )
        await fleet.until(
            lambda count=number: all(len(jumps(process.log())) == count for process in jumped),  # type: ignore[misc]
            f"lines of the time after the jump to {jump}",
        )
    findings = await check(fleet, [*ids, delayed.id])

    check_fires(fleet, "each", start, every, 4 * len(JUMPS))
    assert {line.fence for line in fleet.ledger.lines("start")} == {1}
    done = await fleet.task(delayed.id)
    assert done.status is TaskStatus.COMPLETED
    assert done.started_at is not None and done.started_at >= done.retry_at
    for process in jumped:
        seen = jumps(process.log())
        assert all(abs(found - size) < SLACK for found, size in zip(seen, SIZES, strict=True)), seen
    record(
        "Clocks",
        f"the wall clock jumps to {', '.join(JUMPS)} ({whose})",
        happened="each instant made its one task; nothing ran early, nothing was rescued alive",
        bite=f"the times of the process's own log lines jump by {', '.join(f'{size:+}' for size in SIZES)} s",
        findings=findings,
    )


def jumps(lines: Sequence[dict[str, str]]) -> list[float]:
    """Seconds from a line to the next, where they are more than go by, or fewer than none."""
    stamps = [datetime.fromisoformat(line["timestamp"]) for line in lines if "timestamp" in line]
    steps = [(after - before).total_seconds() for before, after in pairwise(stamps)]
    return [step for step in steps if abs(step) > SLACK]
