"""Enqueue: how many tasks one client hands over in a second, durable and confirmed when the call returns."""

from dataclasses import dataclass, field
from typing import Any

from bench.deployment import deploy
from bench.installation import Installations
from bench.options import Options
from bench.result import Result
from bench.sending import BATCH
from bench.system import System
from bench.systems import chosen

ROUNDS = 3
SECONDS = 2.0
QUICK_SECONDS = 0.5
WAYS = {"one": "one by one", "bulk": f"in batches of {BATCH}"}


@dataclass
class Series:
    """What the sender measured, over all rounds."""

    system: System
    way: str
    samples: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, measured: dict[str, Any]) -> None:
        self.samples.append(measured["count"] / measured["seconds"])
        self.counts.append(measured["count"])

    def result(self) -> Result:
        return Result(
            workload="enqueue",
            system=self.system.name,
            variant=self.system.variant,
            metric=WAYS[self.way],
            unit="tasks/s",
            samples=self.samples,
            detail={"measured": self.counts, "bulk": self.system.bulk, "asyncio": self.system.asyncio},
        )


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """No worker runs; each client has one process."""
    systems = chosen(options.systems)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    series = {system: {way: Series(system, way) for way in WAYS} for system in systems}
    rounds = options.runs or (1 if options.quick else ROUNDS)
    options.plan(rounds * len(systems))
    for number in range(1, rounds + 1):
        for system, ways in series.items():
            options.say(f"enqueue, round {number}: {system.title}")
            try:
                async with deploy(system, installation_factory.servers) as deployment:
                    for way, each in ways.items():
                        each.add(await deployment.send(way, seconds))
            except (RuntimeError, TimeoutError) as error:
                options.failed(f"{system.title}, enqueue", error)
            options.step()
    return [each.result() for ways in series.values() for each in ways.values() if each.samples]
