"""Wait for a task, with its progress on stderr."""

import asyncio
import sys

import typer

from actors.cli.failure import REFUSED, complain
from actors.cli.output import note, pretty, say
from actors.composition import Connection
from schemas.duration import format_duration, parse_duration
from schemas.task import Task, TaskStatus
from service.errors import InvalidInput

PATIENCE = "10m"
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


async def follow(connection: Connection, task: Task, patience: str) -> Task:
    """The task as it is once it has finished, or when ``patience`` ends. Raises NotFound, StoreUnavailable."""
    try:
        limit = parse_duration(patience).total_seconds()
    except ValueError as error:
        raise InvalidInput("--wait-timeout", patience, str(error)) from None
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    pause, shown = FIRST_PAUSE, ""
    while not task.status.finished and loop.time() < until:
        await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
        pause = min(pause * 1.3, LONGEST_PAUSE)
        task = await connection.client.get(task.id)
        now = progress_of(task)
        if now != shown and sys.stderr.isatty():
            note(now)
            shown = now
    return task


def progress_of(task: Task) -> str:
    """``running: 650 of 1000, indexed``."""
    progress = task.progress
    if progress is None:
        return task.status.value
    total = f" of {progress.total_count}" if progress.total_count is not None else ""
    message = f", {progress.message}" if progress.message else ""
    return f"{task.status.value}: {progress.done_count}{total}{message}"


def took(task: Task) -> str | None:
    """How long its last run took."""
    if task.started_at is None or task.finished_at is None:
        return None
    return format_duration(task.finished_at - task.started_at)


def ended(task: Task, *, quiet: bool) -> None:
    """After the wait: say how it ended, unless that was said already (``quiet``); 1 unless it completed."""
    if task.status is TaskStatus.COMPLETED:
        if not quiet:
            say(f"{task.id} completed in {took(task) or 'no time'}")
            if task.result is not None:
                say(pretty(task.result))
        return
    if not task.status.finished:
        complain(f"task {task.id} is still {task.status.value}; verger tasks show {task.id} tells more")
    else:
        error = task.last_error
        why = f"{error.type}: {error.message}" if error is not None else task.reason or "no reason given"
        complain(f"task {task.id} ended {task.status.value}: {why}")
    raise typer.Exit(REFUSED)
