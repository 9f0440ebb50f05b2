"""How far tasks are, live: bars in a terminal, lines elsewhere; until they have ended."""

import asyncio
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from actors.cli.failure import visible
from actors.cli.output import say
from actors.composition import Connection
from schemas.duration import format_duration
from schemas.task import Task, TaskStatus

LOOK_SECONDS = 0.5
"""As often as a run tells how far it is."""


class Screen(Protocol):
    """Where it is shown."""

    def show(self, task: Task) -> None: ...


async def watch(connection: Connection, ids: Collection[str], *, quiet: bool = False) -> dict[str, Task]:
    """Show these until all have ended or are gone; as they then are. ``quiet``: show nothing."""
    with screen(quiet) as shown:
        while True:
            tasks = await connection.store.tasks.get_many(ids)
            for task_id in ids:
                if task_id in tasks:
                    shown.show(tasks[task_id])
            if all(task.status.finished for task in tasks.values()):
                return tasks
            await asyncio.sleep(LOOK_SECONDS)


@contextmanager
def screen(quiet: bool) -> Iterator[Screen]:
    if quiet:
        yield _Nothing()
    elif sys.stdout.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _Lines()


def line_of(task: Task) -> str:
    """``report-7 report.build running 650 of 1000, about 12s left, indexed``."""
    return f"{task.id} {task.task_type} {', '.join(_parts(task))}"


def _parts(task: Task) -> list[str]:
    progress = task.progress
    parts = [task.status.value]
    # The last of it may not have been told: what is told of one that completed is all, or nothing.
    completed = task.status is TaskStatus.COMPLETED
    if progress is not None and (not completed or progress.done_count == progress.total_count):
        total = f" of {progress.total_count}" if progress.total_count is not None else ""
        parts[0] += f" {progress.done_count}{total}"
    if task.status is TaskStatus.RUNNING and progress is not None:
        if progress.eta_ms is not None:
            parts.append(f"about {format_duration(timedelta(milliseconds=progress.eta_ms))} left")
        if progress.message:
            parts.append(progress.message)
        if task.cancel_requested_at is not None:
            parts.append("asked to stop")
    elif task.last_error is not None and task.status is not TaskStatus.COMPLETED:
        parts.append(f"{task.last_error.type}: {task.last_error.message}".partition("\n")[0])
    return parts


class _Nothing(Screen):
    def show(self, task: Task) -> None: ...


class _Lines(Screen):
    """One whenever something has changed."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def show(self, task: Task) -> None:
        line = line_of(task)
        if self._shown.get(task.id) != line:
            self._shown[task.id] = line
            say(line)
            sys.stdout.flush()


class _Bars(Screen):
    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

        self._progress = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        )
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, task: Task) -> None:
        progress = task.progress
        total = progress.total_count if progress is not None else None
        done = progress.done_count if progress is not None else 0
        if task.status is TaskStatus.COMPLETED:
            total = done = total or 1
        said = visible(", ".join(_parts(task)))
        if task.id not in self._rows:
            name = visible(f"{task.id} {task.task_type}")
            self._rows[task.id] = self._progress.add_task("", total=total, name=name, said=said)
        self._progress.update(self._rows[task.id], total=total, completed=done, said=said)
