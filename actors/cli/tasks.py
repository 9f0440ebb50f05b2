"""``verger tasks``: list, show, why, watch, cancel, retry."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated

import typer

from actors.cli.failure import REFUSED, complain
from actors.cli.moments import both, parse_moment, relative, stamp
from actors.cli.options import Json
from actors.cli.output import details, note, plain, pretty, print_json, say, table
from actors.cli.session import talk
from actors.cli.waiting import progress_of, took
from actors.cli.watching import watch
from actors.composition import Connection
from schemas.duration import format_duration
from schemas.task import Task, TaskStatus
from schemas.why import Explanation
from service.errors import Conflict, NotFound
from service.store.port import SCANNED, Page, TaskFilter
from service.why import explain

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="One or several tasks.")]
MOST = 1000
WATCHED = 50


@app.callback()
def tasks() -> None:
    """Look at tasks, cancel them, and replay dead letters."""


@app.command("list")
def list_tasks(
    status: Annotated[TaskStatus | None, typer.Option("--status", help="Only in this state.")] = None,
    task_type: Annotated[str | None, typer.Option("--type", help="Only of this type or alias.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="Only fires of this schedule.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")] = None,
    created_from: Annotated[str | None, typer.Option("--created-from", help="Created from this instant on.")] = None,
    created_to: Annotated[str | None, typer.Option("--created-to", help="Created before this instant.")] = None,
    finished_from: Annotated[str | None, typer.Option("--finished-from", help="Finished from this instant on.")] = None,
    finished_to: Annotated[str | None, typer.Option("--finished-to", help="Finished before this instant.")] = None,
    error: Annotated[str | None, typer.Option("--error", help="With this in the last error.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where an earlier list ended.")] = None,
    json: Json = False,
) -> None:
    """List tasks, newest first. `--status failed` lists the dead letters.

    A list with `--tenant`, `--error`, or a time that does not order it looks at 10000 tasks at most, and says how to go
    on.
    """
    which = TaskFilter(
        status=status,
        task_type=task_type,
        schedule_id=schedule,
        tenant_id=tenant,
        created_from=_moment(created_from, "--created-from"),
        created_to=_moment(created_to, "--created-to"),
        finished_from=_moment(finished_from, "--finished-from"),
        finished_to=_moment(finished_to, "--finished-to"),
        error=error,
    )

    async def read(connection: Connection) -> tuple[Page, datetime]:
        page = await connection.client.find(which, limit=limit, cursor=cursor)
        return page, connection.store.clock.now()

    page, now = talk(read)
    if json:
        print_json({"tasks": [plain(task) for task in page.tasks], "cursor": page.cursor})
        return
    if page.tasks:
        table(("ID", "TYPE", "STATUS", "RUNS", "WHEN", "NOTE"), [_row(task, now) for task in page.tasks])
    elif page.cursor is None:
        say("There are no such tasks.")
    if page.cursor is not None:
        more = "There are more" if len(page.tasks) == limit else f"There may be more, beyond the {SCANNED} looked at"
        note(f"{more}: --cursor {page.cursor}")


def _moment(text: str | None, option: str) -> datetime | None:
    return None if text is None else parse_moment(text, option)


@app.command()
def show(task_id: Annotated[str, typer.Argument(metavar="ID")], json: Json = False) -> None:
    """Show all that is known of one task."""

    async def read(connection: Connection) -> tuple[Task, datetime]:
        return await connection.client.get(task_id), connection.store.clock.now()

    task, now = talk(read)
    if json:
        print_json(plain(task))
    else:
        show_task(task, now)


@app.command()
def why(task_id: Annotated[str, typer.Argument(metavar="ID")], json: Json = False) -> None:
    """Explain why a task did, or did not, run; also of an id that is not known."""

    async def read(connection: Connection) -> Explanation:
        return await explain(connection.store, connection.broker, connection.settings, task_id)

    explanation = talk(read, publishes=True)
    if json:
        print_json(plain(explanation))
    else:
        show_explanation(explanation)


@app.command("watch")
def watch_tasks(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Default: all that run now.")] = None,
    json: Json = False,
) -> None:
    """Show how far tasks are, until they have ended. With IDs, 1 unless all completed."""

    async def act(connection: Connection) -> dict[str, Task]:
        chosen = ids or [
            task.id for task in (await connection.store.tasks.find(TaskFilter(TaskStatus.RUNNING), limit=WATCHED)).tasks
        ]
        tasks = await watch(connection, chosen, quiet=json)
        for task_id in chosen if ids else ():
            if task_id not in tasks:
                raise NotFound(f"there is no task {task_id!r}")
        return tasks

    tasks = talk(act)
    if json:
        print_json({"tasks": [plain(task) for task in tasks.values()]})
    elif not tasks:
        say("No task is running.")
    if ids and any(task.status is not TaskStatus.COMPLETED for task in tasks.values()):
        raise typer.Exit(REFUSED)


@app.command()
def cancel(
    ids: Ids,
    force: Annotated[bool, typer.Option("--force", help="Interrupt the handler instead of asking it.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="For the history.")] = "asked for on the command line",
    json: Json = False,
) -> None:
    """Cancel tasks: a pending one ends at once, a running one at its next checkpoint."""
    _each(ids, lambda client, each: client.client.cancel(each, force=force, reason=reason), json)


@app.command()
def retry(ids: Ids, json: Json = False) -> None:
    """Replay dead letters: they run again with fresh attempts, their history is kept."""
    _each(ids, lambda client, each: client.client.replay(each), json)


def _each(ids: list[str], act: Callable[[Connection, str], Awaitable[Task]], json: bool) -> None:
    """All of them, whatever happens to one; 1 if any was refused."""

    async def acts(connection: Connection) -> tuple[list[Task], list[str]]:
        done, refused = [], []
        for each in ids:
            try:
                done.append(await act(connection, each))
            except (NotFound, Conflict) as error:
                refused.append(str(error))
        return done, refused

    done, refused = talk(acts, publishes=True)
    if json:
        print_json({"tasks": [plain(task) for task in done]})
    else:
        for task in done:
            say(f"{task.id} is {_state(task)}")
    for sentence in refused:
        complain(sentence)
    if refused:
        raise typer.Exit(REFUSED)


# ---- for people ------------------------------------------------------------------------------------------------------


def show_task(task: Task, now: datetime) -> None:
    """One task, for people."""
    most = "no limit" if task.max_attempts is None else str(task.max_attempts)
    error = task.last_error
    waits = task.status is TaskStatus.PENDING and task.retry_at > now
    details(
        {
            "id": task.id,
            "type": task.task_type,
            "name": task.task_name,
            "status": _state(task),
            "reason": task.reason,
            "progress": progress_of(task) if task.progress is not None else None,
            "attempt": f"{task.attempt} of {most}, {task.retry_count} failed",
            "time limit": format_duration(timedelta(seconds=task.timeout_seconds)),
            "schedule": task.schedule_id,
            "fire": both(task.fire_at, now),
            "created": both(task.created_at, now),
            "not before": both(task.retry_at, now) if waits else None,
            "started": both(task.started_at, now),
            "finished": both(task.finished_at, now),
            "took": took(task),
            "worker": task.claimed_by,
            "tenant": task.tenant_id,
            "body": pretty(task.task_body),
            "checkpoint": pretty(task.checkpoint) if task.checkpoint is not None else None,
            "result": pretty(task.result) if task.result is not None else None,
            "error": f"{error.type}: {error.message}" if error is not None else None,
            "traceback": error.traceback if error is not None else None,
            "history": "\n".join(_history(task)) or None,
        }
    )


def show_explanation(explanation: Explanation, *, story: bool = True) -> None:
    """What happened, what is now, what to do."""
    for step in explanation.story if story else ():
        say(f"{stamp(step.at) if step.at is not None else '':<20}  {step.text}")
    if story and explanation.story:
        say()
    for sentence in explanation.now:
        say(sentence)
    for sentence in explanation.advice:
        say(f"→ {sentence}")


def _history(task: Task) -> list[str]:
    return [
        " ".join([stamp(line.at), line.event, *(part for part in (line.reason, line.worker) if part)])
        for line in task.history
    ]


def _state(task: Task) -> str:
    asked = task.cancel_requested_at is not None and not task.status.finished
    return f"{task.status.value}, asked to stop" if asked else task.status.value


def _row(task: Task, now: datetime) -> tuple[str, ...]:
    when = task.finished_at or task.started_at or task.created_at
    comment = ""
    if task.last_error is not None and task.status is not TaskStatus.COMPLETED:
        comment = f"{task.last_error.type}: {task.last_error.message}"
    elif task.status is TaskStatus.RUNNING and task.progress is not None:
        comment = progress_of(task)
    elif task.status is TaskStatus.PENDING and task.retry_at > now:
        comment = f"due {relative(task.retry_at, now)}"
    elif task.reason is not None:
        comment = task.reason
    line = comment.partition("\n")[0]
    return task.id, task.task_type, _state(task), str(task.attempt), relative(when, now), line
