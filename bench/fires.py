"""Fires: 1,000 schedules fall due in the same second, with three schedulers, again and again."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.installation import Installation, Installations
from bench.options import Options
from bench.process import Process
from bench.recovery import marks, quantile
from bench.result import Result
from schemas.schedule import Schedule

SCHEDULES, QUICK_SCHEDULES = 1_000, 50
BURSTS, QUICK_BURSTS = 5, 2
EVERY_SECONDS, QUICK_EVERY_SECONDS = 10, 4
SCHEDULERS = 3
LEAD_SECONDS = 10
"""From the writing of the schedules to the first burst."""
PATIENCE_SECONDS = 60.0
WRITE = 100
"""Schedules that are written in one transaction."""
STAGES = ("record created", "published", "run started")
SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def fire_id(schedule_id: str, fire_at: datetime) -> str:
    return f"fire:{schedule_id}@{fire_at.isoformat().replace('+00:00', 'Z')}"


@dataclass
class Burst:
    """What was found of the fires of one instant."""

    lags: dict[str, list[float]]
    """Stage → milliseconds from the instant the fire was due, for each fire."""
    missed: int
    doubled: int


async def _write(installation: Installation, count: int, every: int) -> datetime:
    """The schedules; returns when they are due for the first time."""
    store = installation.connection.store
    # ``@every`` counts from the beginning of 1970, whenever it fires for the first time.
    soonest = store.clock.now().timestamp() + LEAD_SECONDS
    start = datetime.fromtimestamp(math.ceil(soonest / every) * every, UTC)
    schedules = [
        Schedule(
            id=f"s{number:04}",
            task_type="bench.marked",
            task_body={"schedule": number},  # one body for all would make them one task
            schedule=f"@every {every}s",
            next_fire_at=start,
        )
        for number in range(count)
    ]
    for done in range(0, count, WRITE):
        await store.schedules.write(schedules[done : done + WRITE])
    await installation.client.schedules_changed()
    if store.clock.now() >= start:
        raise RuntimeError("the schedules were written too slowly: the first burst was over before")
    return start


def _fired(schedulers: Sequence[Process]) -> list[dict[str, Any]]:
    """What the schedulers logged of their fires: each line once the message was confirmed and the fire was closed."""
    return [line for process in schedulers for line in process.log() if line.get("event") == "schedule.fired"]


async def _finished(installation: Installation, until: datetime, count: int) -> list[dict[str, Any]]:
    """The tasks of the fires before that instant, once ``count`` have completed; those there are if they never do."""
    tasks, mine = installation.tasks, {"fireAt": {"$lt": until}}
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.to_thread(tasks.count_documents, {**mine, "status": "completed"}) < count:
                await asyncio.sleep(0.5)
    return await asyncio.to_thread(lambda: list(tasks.find(mine)))


def _lags(tasks: Sequence[dict[str, Any]], name: str, due_at: datetime) -> dict[str, float]:
    """Task id → milliseconds from the instant it was due to the one that its record calls so."""
    return {task["_id"]: 1000 * (task[name] - due_at).total_seconds() for task in tasks if name in task}


def _bursts(
    instants: Sequence[datetime],
    schedules: int,
    tasks: Sequence[dict[str, Any]],
    fired: Sequence[dict[str, Any]],
    runs: Counter[str],
) -> list[Burst]:
    announced = Counter(line["id"] for line in fired)
    logged = {line["id"]: float(line["lag_ms"]) for line in fired}
    bursts = []
    for instant in instants:
        found = [task for task in tasks if task["fireAt"] == instant]
        ids = {task["_id"] for task in found}
        due = {fire_id(f"s{number:04}", instant) for number in range(schedules)}

        created, started = _lags(found, "createdAt", instant), _lags(found, "startedAt", instant)
        # No record says when a message was confirmed: before the scheduler logged it, and before the run started.
        published = {each: min(logged[each], started.get(each, logged[each])) for each in ids & logged.keys()}
        lags = {"record created": created, "published": published, "run started": started}
        bursts.append(
            Burst(
                {stage: list(of_stage.values()) for stage, of_stage in lags.items()},
                missed=len([each for each in due if each not in ids or not runs[each]]),
                # One more task for the same instant, one more scheduler that says it made it, or one more run of it.
                doubled=len(ids - due) + len([each for each in ids if announced[each] > 1 or runs[each] > 1]),
            )
        )
    return bursts


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """Three schedulers, one worker; a sample for each burst."""
    schedules, every = (QUICK_SCHEDULES, QUICK_EVERY_SECONDS) if options.quick else (SCHEDULES, EVERY_SECONDS)
    count = QUICK_BURSTS if options.quick else options.runs or BURSTS
    options.plan(count)
    async with installation_factory(VERGER_ACTORS="bench.recovery") as installation:
        schedulers = await installation.start_scheduler(SCHEDULERS)
        await installation.start_worker()
        start = await _write(installation, schedules, every)
        instants = [start + timedelta(seconds=number * every) for number in range(count)]
        for number, instant in enumerate(instants, start=1):
            options.say(f"fires: burst {number} of {count}")
            left = instant - installation.connection.store.clock.now()
            await asyncio.sleep(max(0.0, left.total_seconds() + every / 2))
            options.step()
        tasks = await _finished(installation, start + timedelta(seconds=count * every), count * schedules)
        fired = _fired(schedulers)
        skipped = sum(schedule.get("skipped", {}).get("overlap", 0) for schedule in installation.schedules.find())
        bursts = _bursts(instants, schedules, tasks, fired, marks(installation.folder))
    detail = {
        "schedules": schedules,
        "schedulers": SCHEDULERS,
        "workers": 1,
        "skipped": skipped,
        "measured": [len(burst.lags["record created"]) for burst in bursts],
        "target_published_p99_ms": 1000,
    }

    def result(metric: str, unit: str, samples: list[float]) -> Result:
        return Result("fires", "verger", f"{SCHEDULERS} schedulers", metric, unit, samples, detail)

    if not any(burst.lags["published"] for burst in bursts):
        raise RuntimeError(f"not one of {count * schedules} fires was published")
    return [
        *(
            result(f"{stage} {name}", "ms", [quantile(lags, share) for burst in bursts if (lags := burst.lags[stage])])
            for stage in STAGES
            for name, share in SHARES.items()
        ),
        result("missed", "fires", [burst.missed for burst in bursts]),
        result("doubled", "fires", [burst.doubled for burst in bursts]),
    ]
