"""The course of most fault tests: processes under load, a fault, its mending, and what must hold afterwards."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from tests.faults.kit.fleet import Fleet
from tests.faults.kit.load import Load
from tests.faults.kit.record import Recorder


class Bite(NamedTuple):
    """How it was shown that a fault happened."""

    how: str
    recovery: float | None = None
    """Seconds from the fault until work went on, where that was before it was mended."""


Fault = Callable[[Fleet], Awaitable[Bite]]
"""Does it, makes sure that it bit, mends it."""


async def suffer(
    fleet: Fleet,
    record: Recorder,
    part: str,
    name: str,
    fault: Fault,
    *,
    foreign: bool = True,
    environment: Mapping[str, str] | None = None,
    at: Mapping[str, Mapping[str, str]] | None = None,
) -> Load:
    """A scheduler and two workers; returns the load, when all has been checked.

    Args:
        foreign: Whether another program publishes too, whose messages are nowhere but in the broker.
        environment: What each process is told.
        at: Name of a process (``scheduler``, ``first``, ``second``) → what it alone is told.
    """
    told, own = environment or {}, at or {}
    await fleet.start("scheduler", environment={**told, **own.get("scheduler", {})})
    workers = [await fleet.start("worker", environment={**told, **own.get(which, {})}) for which in ("first", "second")]
    async with Load(fleet, workers, foreign=foreign) as load:
        await load.flows()
        bite = await fault(fleet)
        took = await load.recovers(fleet.now())
    findings = await load.check()
    again = len(ran_again(fleet, load))
    record(
        part,
        name,
        happened=f"{load.refused} of the publishers' tasks were refused meanwhile, {again} tasks ran again",
        bite=bite.how,
        findings=findings,
        recovery=took if bite.recovery is None else bite.recovery,
    )
    return load


def ran_again(fleet: Fleet, load: Load) -> dict[str, int]:
    """Task id → how often it was claimed, of those that were claimed more often than they failed on purpose."""
    return {
        task_id: states[-1].fence
        for task_id, states in fleet.oplog.states.items()
        if states[-1].fence > 1 + (task_id in load.flaky)
    }


def ran_once(fleet: Fleet, load: Load) -> None:
    """No run was lost: a claim has nothing to do with the broker, however often a message comes again."""
    assert not (again := ran_again(fleet, load)), again
