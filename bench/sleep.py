"""Drain of tasks that wait 10 ms each: what matters is how many a system has under way at once."""

from bench.drain import QUICK, Case, run_rounds
from bench.installation import Installations
from bench.options import Options
from bench.result import Result
from bench.systems import chosen

COUNT = 20_000


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """Two worker processes, 100 tasks at once in each of them for every system."""
    rounds = [
        [
            Case(system, "nap", 2, QUICK if options.quick else min(COUNT, system.count))
            for system in chosen(options.systems)
        ]
        for _ in range(options.runs or 1)
    ]
    return await run_rounds("sleep", rounds, installation_factory.servers, options)
