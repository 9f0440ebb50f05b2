"""Memory: how large a worker and a scheduler are while 200,000 tasks pass through, step by step."""

import asyncio
from pathlib import Path

from bench.installation import Installations
from bench.million import enqueue, until_recorded
from bench.options import Options
from bench.process import Process
from bench.result import Result

STEPS, STEP = 10, 20_000
QUICK_STEPS, QUICK_STEP = 2, 2_000
REST_SECONDS = 1.0
"""After each step, before it is looked at."""


def resident(process: Process, field: str = "VmRSS") -> float:
    """Resident memory in MB (2**20 bytes); with ``VmHWM`` the most there ever was."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """One worker and one scheduler. A sample for each step; growth is from the second step to the last."""
    steps, step = (QUICK_STEPS, QUICK_STEP) if options.quick else (STEPS, STEP)
    options.plan(steps)
    async with installation_factory() as installation:
        processes = {
            "scheduler": (await installation.start_scheduler())[0],
            "worker": (await installation.start_worker())[0],
        }
        before = {role: resident(process) for role, process in processes.items()}
        sizes: dict[str, list[float]] = {role: [] for role in processes}
        for number in range(1, steps + 1):
            options.say(f"memory: step {number} of {steps}")
            await enqueue(installation.client, step)
            await until_recorded(installation, [processes["worker"]], installation.tally, number * step)
            await asyncio.sleep(REST_SECONDS)
            for role, process in processes.items():
                sizes[role].append(resident(process))
            options.step()
        most = {role: resident(process, "VmHWM") for role, process in processes.items()}
    results = []
    for role, samples in sizes.items():
        detail = {"tasks_a_step": step, "before": before[role], "most": most[role]}
        growth = samples[-1] - samples[1]
        results += [
            Result("memory", "verger", role, f"resident after each {step:,} tasks", "MB", samples, detail),
            Result("memory", "verger", role, "growth after the second step", "MB", [growth], detail),
        ]
    return results
