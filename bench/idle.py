"""Idle: what a scheduler and a worker cost while there is nothing to do."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from actors import actor
from bench.installation import Installation, Installations
from bench.memory import resident
from bench.million import cpu_seconds
from bench.options import Options
from bench.process import Process
from bench.result import Result
from schemas.schedule import Schedule

TYPES = 10
SCHEDULES = 100
SECONDS, QUICK_SECONDS = 60.0, 10.0
SETTLE_SECONDS, QUICK_SETTLE_SECONDS = 20.0, 3.0
"""After its start a process looks at everything once."""


async def nothing(body: dict[str, Any]) -> None:
    """Nothing; nobody asks for it either."""


# Handlers are found by the names of a module: one for each type.
globals().update({f"type_{number}": actor(f"bench.idle-{number}")(nothing) for number in range(TYPES)})


@dataclass
class Window:
    """What happened in some seconds."""

    seconds: float
    operations: Counter[str]
    """Kind of the server's counters → how many."""
    commands: Counter[str]
    """Command → how many."""
    cpu_seconds: float = 0.0


def _counted(installation: Installation) -> tuple[Counter[str], Counter[str]]:
    """What the server has counted so far: operations, and commands."""
    status = installation.mongo.admin.command("serverStatus")
    commands = status["metrics"]["commands"]
    return (
        Counter({name: int(count) for name, count in status["opcounters"].items() if isinstance(count, int)}),
        Counter({name: int(of["total"]) for name, of in commands.items() if isinstance(of, dict) and "total" in of}),
    )


async def _watch(installation: Installation, process: Process | None, seconds: float) -> Window:
    operations, commands = await asyncio.to_thread(_counted, installation)
    begun, cpu = time.monotonic(), cpu_seconds(process.pid) if process is not None else 0.0
    await asyncio.sleep(seconds)
    spent = cpu_seconds(process.pid) - cpu if process is not None else 0.0
    now_operations, now_commands = await asyncio.to_thread(_counted, installation)
    return Window(time.monotonic() - begun, now_operations - operations, now_commands - commands, spent)


async def _prepare(installation: Installation) -> None:
    """Schedules whose time is far away."""
    now = installation.connection.store.clock.now()
    schedules = [
        Schedule(
            id=f"idle-{number}",
            task_type=f"bench.idle-{number % TYPES}",
            schedule="@every 24h",
            next_fire_at=now + timedelta(hours=1, minutes=number),
        )
        for number in range(SCHEDULES)
    ]
    await installation.connection.store.schedules.write(schedules)


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """One process at a time: what the server counts is its doing, less what is counted while there is none."""
    seconds, settle = (QUICK_SECONDS, QUICK_SETTLE_SECONDS) if options.quick else (SECONDS, SETTLE_SECONDS)
    rounds = options.runs or 1
    options.plan(3 * rounds)
    results: list[Result] = []
    windows: dict[str, list[tuple[Window, float]]] = {"scheduler": [], "worker": []}
    nobody: list[Window] = []
    async with installation_factory(VERGER_ACTORS="bench.idle") as installation:
        await _prepare(installation)
        start = {"scheduler": installation.start_scheduler, "worker": installation.start_worker}
        for _ in range(rounds):
            options.say(f"idle: nobody for {seconds:g} s")
            nobody.append(await _watch(installation, None, seconds))
            options.step()
            for role, found in windows.items():
                options.say(f"idle: a {role} for {seconds:g} s")
                process = (await start[role]())[0]
                await asyncio.sleep(settle)
                window = await _watch(installation, process, seconds)
                process.check()
                found.append((window, resident(process)))
                process.stop()
                options.step()
    for role, found in windows.items():
        results += _results(role, found, nobody)
    return results


def _results(role: str, found: list[tuple[Window, float]], nobody: list[Window]) -> list[Result]:
    def a_minute(counts: Counter[str], window: Window) -> dict[str, float]:
        return {name: 60 * count / window.seconds for name, count in sorted(counts.items())}

    own = [window.operations - none.operations for (window, _), none in zip(found, nobody, strict=True)]
    detail = {
        "seconds": [window.seconds for window, _ in found],
        "schedules": SCHEDULES,
        "task_types": TYPES,
        "operations_a_minute": [a_minute(each, window) for each, (window, _) in zip(own, found, strict=True)],
        "commands_a_minute": [
            a_minute(window.commands - none.commands, window) for (window, _), none in zip(found, nobody, strict=True)
        ],
        "target_operations_a_minute": 60,
        "target_cpu_percent": 1,
    }

    def result(metric: str, unit: str, samples: list[float]) -> Result:
        return Result("idle", "verger", role, metric, unit, samples, detail)

    return [
        result(
            "MongoDB operations",
            "a minute",
            [60 * each.total() / window.seconds for each, (window, _) in zip(own, found, strict=True)],
        ),
        result("CPU", "% of a core", [100 * window.cpu_seconds / window.seconds for window, _ in found]),
        result("resident", "MB", [size for _, size in found]),
    ]
