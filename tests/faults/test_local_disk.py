"""The machine's own disk is full: Verger keeps its truth elsewhere, and works on."""

import resource
import signal

import pytest

from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check
from tests.faults.kit.record import Recorder
from tests.promises.installation import Process


def fill_up(process: Process) -> int:
    """From now on its log cannot grow, nor any larger file, of which there is none; returns the size of the log."""
    with process.log_file.open("a") as log:
        log.write("." * 1_000_000 + "\n")
    size = process.log_file.stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return size


def make_room(process: Process) -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.long
async def test_where_no_log_line_can_be_written_the_work_goes_on(fleet: Fleet, record: Recorder) -> None:
    scheduler = await fleet.start("scheduler")
    worker = await fleet.start("worker")
    before = await fleet.enqueue(200)
    await fleet.ended(before)

    said = {process: fill_up(process) for process in (scheduler, worker)}
    during = [*await fleet.enqueue(20), *await fleet.enqueue(5, task_type="fault.flaky")]
    await check(fleet, during)
    assert {process: process.log_file.stat().st_size for process in said} == said
    assert all(process.alive for process in said)

    make_room(worker)
    after = await fleet.enqueue(20)
    findings = await check(fleet, [*before, *during, *after])
    await fleet.until(
        lambda: set(after) <= {line["id"] for line in worker.events("task.finished")}, "lines to be written again"
    )
    fill_up(worker)
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    record(
        "Processes",
        "the disk of the logs is full, has room again, and is full when the worker is told to stop",
        happened="all ran; what happened meanwhile has no line; SIGTERM ended the worker in order, exit code 0",
        bite="the logs did not grow by a byte meanwhile (RLIMIT_FSIZE)",
        findings=findings,
    )
