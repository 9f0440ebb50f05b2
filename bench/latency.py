"""Latency from the planned instant of a send to the start of the handler, at three loads, in an open loop.

The instants are planned in advance and kept by a process of its own, whatever becomes of the tasks before: a system
that falls behind is not asked more gently for that. The load is a share of what the same system drained with as many
workers.
"""

import asyncio
import time
from dataclasses import dataclass, field

from bench.deployment import Deployment, deploy
from bench.drain import BOUND_SECONDS, QUICK, Case, drain
from bench.installation import Installations
from bench.options import Options
from bench.result import Result, load
from bench.servers import Servers
from bench.system import System
from bench.systems import chosen

LOADS = (0.1, 0.5, 0.8)
QUANTILES = (0.5, 0.95, 0.99)
PROCESSES = 2
SECONDS = 5.0
QUICK_SECONDS = 1.0
GREETINGS = 100
GREETING_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""How long the last tasks may take after the last send. One that takes longer counts as this long."""


def metric(quantile: float, load: float) -> str:
    return f"p{quantile * 100:.0f} at {load:.0%} load"


@dataclass
class Series:
    """One system at one load, over all rounds."""

    system: System
    load: float
    capacity: float
    """Tasks a second."""
    delays: list[list[float]] = field(default_factory=list)
    """In seconds, sorted; a list for each round."""
    late: list[float] = field(default_factory=list)
    """How late the sender itself was, the 99th percentile, in seconds."""
    unfinished: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return max(1.0, self.capacity * self.load)

    def results(self) -> list[Result]:
        return [
            Result(
                workload="latency",
                system=self.system.name,
                variant=self.system.variant,
                metric=metric(quantile, self.load),
                unit="ms",
                samples=[1000 * _quantile(delays, quantile) for delays in self.delays],
                detail={
                    "load": self.load,
                    "rate": self.rate,
                    "capacity": self.capacity,
                    "measured": [len(delays) for delays in self.delays],
                    "sender_late_p99_ms": [1000 * late for late in self.late],
                    "unfinished": self.unfinished,
                },
            )
            for quantile in QUANTILES
        ]


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


async def _settled(deployment: Deployment, sent: int) -> int:
    """Wait for what was sent; returns how many have not been run."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while (done := deployment.tally.read()) < sent and time.monotonic() < patience:
        deployment.check()
        await asyncio.sleep(0.02)
    return sent - done


async def _awake(deployment: Deployment) -> None:
    """Return once the workers work: the first has had its tasks, and the second has had time to come."""
    await deployment.send("fill", "timed", GREETINGS)
    await deployment.tally.until(GREETINGS, BOUND_SECONDS, deployment.check)
    await asyncio.sleep(GREETING_SECONDS)


async def _pace(deployment: Deployment, each: Series, seconds: float) -> bool:
    """One system at one load, once; returns whether it kept up, so that it can be asked for more."""
    tally = deployment.tally
    tally.mark()
    before = tally.read()
    sent = await deployment.send("pace", each.rate, seconds)
    missing = await _settled(deployment, before + sent["count"])
    each.delays.append(sorted([*tally.delays(), *([PATIENCE_SECONDS] * missing)]))
    each.late.append(sent["late_p99"])
    each.unfinished.append(missing)
    return missing == 0


async def _capacity(system: System, servers: Servers, options: Options) -> float:
    """The median that drain measured; measured now if it did not."""
    kept = options.results / "drain.json"
    case = Case(system, "noop", PROCESSES, QUICK if options.quick else system.count)
    for result in load(kept) if kept.exists() else []:
        if (result.system, result.variant, result.metric) == (system.name, system.variant, case.metric):
            return result.median
    return (await drain(case, servers)).rate


async def _loads(series: list[Series], number: int, servers: Servers, options: Options) -> None:
    """All loads of one system, on one deployment, until it falls behind."""
    system = series[0].system
    async with deploy(system, servers) as deployment:
        await deployment.start(PROCESSES)
        await _awake(deployment)
        for each in series:
            options.say(f"latency, round {number}: {system.title} at {each.load:.0%} load")
            kept_up = await _pace(deployment, each, QUICK_SECONDS if options.quick else SECONDS)
            options.step()
            if not kept_up:
                break


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """Two worker processes; the systems take turns within a round."""
    servers = installation_factory.servers
    systems = chosen(options.systems)
    rounds = options.runs or (1 if options.quick else 2)
    options.plan(len(systems) * (1 + rounds * len(LOADS)))
    series: dict[System, list[Series]] = {}
    for system in systems:
        options.say(f"latency: capacity of {system.title}")
        try:
            capacity = await _capacity(system, servers, options)
        except (RuntimeError, TimeoutError) as error:
            options.failed(f"{system.title}, its capacity", error)
        else:
            series[system] = [Series(system, load, capacity) for load in LOADS]
        options.step()
    for number in range(1, rounds + 1):
        for system, loads in series.items():
            if number > 1 and not system.headline:
                continue
            try:
                await _loads(loads, number, servers, options)
            except (RuntimeError, TimeoutError) as error:
                options.failed(f"{system.title}, latency", error)
    return [result for loads in series.values() for each in loads if each.delays for result in each.results()]
