"""Drain: tasks wait, the workers start, and the clock runs from the first task to the last one that is recorded."""

import asyncio
import time
from dataclasses import dataclass, field

from bench.deployment import deploy
from bench.installation import Installations
from bench.options import Options
from bench.result import Result
from bench.servers import Servers
from bench.system import System
from bench.systems import chosen

BOUND_SECONDS = 6.0
LARGE = 100_000
LARGE_SECONDS = 120.0
ROUNDS, FEW_ROUNDS = 5, 1
"""Of the systems that a target names, and of the others."""
QUICK = 300


@dataclass(frozen=True)
class Case:
    """One kind of drain of one system."""

    system: System
    work: str
    processes: int
    count: int
    seconds: float = BOUND_SECONDS
    """No longer than this from the first task on, unless all are done before."""

    @property
    def metric(self) -> str:
        size = " of 100,000" if self.count == LARGE else ""
        return f"{self.work} {self.processes} process{'es' if self.processes > 1 else ''}{size}"


@dataclass
class Drained:
    """What one drain came to."""

    count: int
    seconds: float
    all_done: bool

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return self.count / self.seconds


async def drain(case: Case, servers: Servers) -> Drained:
    """One drain on a deployment of its own."""
    async with deploy(case.system, servers) as deployment:
        await deployment.send("fill", case.work, case.count)
        await deployment.start(case.processes, slots=case.system.nap_slots if case.work == "nap" else None)
        tally = deployment.tally
        done = await tally.until(case.count, case.seconds, deployment.check)
        if done < case.count:
            now = time.monotonic()
            recorded = await deployment.recorded()
            return Drained(done if recorded is None else min(done, recorded), now - tally.first, all_done=False)
        end = tally.last
        while (recorded := await deployment.recorded()) is not None:
            end = time.monotonic()
            if recorded >= case.count:
                break
            if end > tally.last + 30:
                raise RuntimeError(f"{case.system.title} ran {done} tasks, but recorded only {recorded} of them")
            await asyncio.sleep(0.01)
        return Drained(case.count, end - tally.first, all_done=True)


@dataclass
class Series:
    """The drains of one case, over all rounds."""

    case: Case
    drained: list[Drained] = field(default_factory=list)

    def result(self, workload: str) -> Result:
        case = self.case
        return Result(
            workload=workload,
            system=case.system.name,
            variant=case.system.variant,
            metric=case.metric,
            unit="tasks/s",
            samples=[each.rate for each in self.drained],
            detail={
                "tasks": case.count,
                "processes": case.processes,
                "seconds": [each.seconds for each in self.drained],
                "measured": [each.count for each in self.drained],
                "all_done": all(each.all_done for each in self.drained),
                "durable_results": case.system.durable_results,
            },
        )


def cases(options: Options) -> list[list[Case]]:
    """The rounds: in each, every system takes its turn, so that what disturbs the machine disturbs them alike."""
    systems = chosen(options.systems)
    rounds: list[list[Case]] = []
    for number in range(options.runs or (1 if options.quick else ROUNDS)):
        ones: list[Case] = []
        for system in systems:
            count = QUICK if options.quick else system.count
            if system.headline or number < FEW_ROUNDS:
                ones.append(Case(system, "noop", 2, count))
            if number < (3 if system.name == "verger" else 1):
                ones.append(Case(system, "noop", 1, count))
            if number == 0 and system.name == "verger" and not options.quick:
                ones.append(Case(system, "noop", 2, LARGE, LARGE_SECONDS))
        rounds.append(ones)
    return rounds


async def run_rounds(workload: str, rounds: list[list[Case]], servers: Servers, options: Options) -> list[Result]:
    """Do them all; a case that comes again adds a sample to its series."""
    series: dict[Case, Series] = {}
    options.plan(sum(len(each) for each in rounds))
    for number, each in enumerate(rounds, start=1):
        for case in each:
            options.say(f"{workload}, round {number}: {case.system.title}, {case.metric}")
            try:
                series.setdefault(case, Series(case)).drained.append(await drain(case, servers))
            except (RuntimeError, TimeoutError) as error:
                options.failed(f"{case.system.title}, {case.metric}", error)
            options.step()
    return [each.result(workload) for each in series.values() if each.drained]


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """No-ops, with one and two worker processes."""
    return await run_rounds("drain", cases(options), installation_factory.servers, options)
