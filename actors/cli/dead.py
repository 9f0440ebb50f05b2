"""``verger dead``: the dead letters, in heaps."""

import asyncio
import getpass
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from actors.cli.enqueue import read_body
from actors.cli.failure import REFUSED, complain
from actors.cli.moments import relative
from actors.cli.options import Json
from actors.cli.output import note, plain, print_json, say, table
from actors.cli.session import talk
from actors.cli.tasks import show_explanation, show_task
from actors.cli.watching import watch
from actors.composition import Connection
from schemas.dead_letter import DeadGroups, Discarded, DiscardRequest, Matches, ReplayRequest, ReplayState, Selection
from schemas.task import Task, TaskStatus
from schemas.why import Explanation
from service.dead_letters import REPLAY, DeadLetters
from service.errors import Conflict
from service.store.port import Page
from service.why import explain

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Some of them, by id.")]
Type = Annotated[str | None, typer.Option("--type", help="All of this type or alias.")]
Fingerprint = Annotated[str | None, typer.Option("--fingerprint", help="All of this fingerprint: see `groups`.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell which are meant.")]
S = TypeVar("S", bound=Selection)


@app.callback()
def dead() -> None:
    """Look at dead letters, replay them at a bounded rate, or throw them away."""


def heap_of(connection: Connection) -> DeadLetters:
    return DeadLetters(connection.store, connection.client, connection.registry)


@app.command("list")
def list_dead(
    task_type: Type = None,
    fingerprint: Fingerprint = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where an earlier list ended.")] = None,
    json: Json = False,
) -> None:
    """List dead letters, newest first."""

    async def read(connection: Connection) -> tuple[Page, datetime]:
        page = await heap_of(connection).page(task_type, fingerprint, limit=limit, cursor=cursor)
        return page, connection.store.clock.now()

    page, now = talk(read)
    if json:
        print_json({"deadLetters": [plain(task) for task in page.tasks], "cursor": page.cursor})
        return
    _show_dead(page.tasks, now)
    if page.cursor is not None:
        note(f"There are more: --cursor {page.cursor}")


@app.command()
def groups(task_type: Type = None, json: Json = False) -> None:
    """Group them by what went wrong, the largest groups first."""

    async def read(connection: Connection) -> tuple[DeadGroups, datetime]:
        return await heap_of(connection).groups(task_type), connection.store.clock.now()

    told, now = talk(read)
    if json:
        print_json(plain(told))
        return
    if not told.groups:
        say("There are no dead letters.")
        return
    table(
        ("FINGERPRINT", "COUNT", "TYPE", "LAST", "FIRST", "PLACE", "SAMPLE", "ERROR"),
        [
            (
                group.fingerprint,
                str(group.count),
                group.task_type,
                relative(group.last_seen, now),
                relative(group.first_seen, now),
                group.place,
                group.sample_id,
                f"{group.error_type}: {group.sample_message}",
            )
            for group in told.groups
        ],
    )
    if not told.complete:
        note(f"These are the {len(told.groups)} largest groups of the newest {told.counted}; --type narrows it down.")


@app.command()
def show(task_id: Annotated[str, typer.Argument(metavar="ID")], json: Json = False) -> None:
    """Show one, and whether it can be replayed."""

    async def read(connection: Connection) -> tuple[Task, Explanation, datetime]:
        task = await connection.client.get(task_id)
        if task.status is not TaskStatus.FAILED:
            raise Conflict(f"task {task_id!r} is {task.status}, no dead letter; see verger tasks show {task_id}")
        why = await explain(connection.store, connection.broker, connection.settings, task_id)
        return task, why, connection.store.clock.now()

    task, why, now = talk(read)
    if json:
        print_json({"deadLetter": plain(task), "why": plain(why)})
        return
    show_task(task, now)
    say()
    show_explanation(why, story=False)


@app.command()
def replay(
    ids: Ids = None,
    task_type: Type = None,
    fingerprint: Fingerprint = None,
    rate: Annotated[float, typer.Option("--rate", help="How many a second at most.")] = 20,
    first: Annotated[int | None, typer.Option("--first", help="Replay so many, and wait until they ended.")] = None,
    stop_above: Annotated[
        float, typer.Option("--stop-above", help="Stop if more than this share of the first failed again.")
    ] = 0,
    body: Annotated[str | None, typer.Option("--body", help="Replay the one ID with this JSON instead.")] = None,
    body_file: Annotated[str | None, typer.Option("--body-file", help="The same, from a file; - is stdin.")] = None,
    dry_run: DryRun = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until it is done.")] = False,
    json: Json = False,
) -> None:
    """Replay dead letters: by ID, or all of a type or fingerprint.

    A worker does it, as a task `verger.replay`: it goes on if this command ends. `verger tasks cancel` stops it.
    """
    if body is not None and body_file is not None:
        raise typer.BadParameter("give --body or --body-file, not both")
    edited = read_body(body, body_file) if body is not None or body_file is not None else None
    request = _request(
        ReplayRequest,
        ids=ids or None,
        task_type=task_type,
        fingerprint=fingerprint,
        rate=rate,
        first=first,
        stop_above=stop_above,
        dry_run=dry_run,
        task_body=edited,
    )
    if dry_run:
        _show_matches(request, json)
    elif edited is not None and request.ids is not None:
        _edit(request.ids[0], edited, json)
    else:
        _replay(request, detach, json)


def _edit(task_id: str, body: dict[str, Any], json: bool) -> None:
    async def act(connection: Connection) -> Task:
        return (await heap_of(connection).edit(task_id, body, _who()))[1]

    task = talk(act, publishes=True)
    if json:
        print_json({"task": plain(task)})
    else:
        say(f"{task.id} is {task.status.value} with another body")


def _replay(request: ReplayRequest, detach: bool, json: bool) -> None:
    async def act(connection: Connection) -> Task:
        operation = await heap_of(connection).order(request, _who())
        settings = connection.settings
        alive = await connection.store.workers.alive(connection.store.clock.now() - settings.stale_claim_timeout)
        if not any(REPLAY in worker.task_types for worker in alive):
            note("No worker is alive: it begins when one is started.")
        if detach:
            return operation
        try:
            return (await watch(connection, [operation.id], quiet=json)).get(operation.id, operation)
        except asyncio.CancelledError:
            note(
                f"It goes on: verger tasks watch {operation.id} shows it, verger tasks cancel {operation.id} stops it."
            )
            raise

    operation = talk(act, publishes=True)
    if json:
        print_json({"operation": plain(operation)})
    if detach:
        if not json:
            say(f"{operation.id} replays them: verger tasks watch {operation.id}")
        return
    _replayed(operation, quiet=json)


def _replayed(operation: Task, *, quiet: bool) -> None:
    """How it ended; 1 unless all were replayed."""
    result = ReplayState.model_validate(operation.result) if operation.result is not None else None
    if operation.status is not TaskStatus.COMPLETED or result is None:
        complain(f"the replay {operation.id} ended {operation.status.value}: {operation.reason or 'no reason given'}")
        raise typer.Exit(REFUSED)
    if not quiet:
        say(f"{result.replayed} of {result.total} replayed")
    for refusal in result.refusals:
        complain(f"{refusal.id}: {refusal.problem}")
    if result.refused > len(result.refusals):
        complain(f"{result.refused} could not be replayed in all")
    if result.stopped is not None:
        complain(f"stopped: {result.stopped}; the rest was left as it is")
    if result.stopped is not None or result.refused:
        raise typer.Exit(REFUSED)


@app.command()
def discard(
    reason: Annotated[str, typer.Option("--reason", help="For the history.")],
    ids: Ids = None,
    task_type: Type = None,
    fingerprint: Fingerprint = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """End dead letters as cancelled: nobody is going to replay them."""
    request = _request(
        DiscardRequest, ids=ids or None, task_type=task_type, fingerprint=fingerprint, reason=reason, dry_run=dry_run
    )
    if dry_run:
        _show_matches(request, json)
        return

    async def act(connection: Connection) -> Discarded:
        answer = await heap_of(connection).discard(request, request.reason, _who())
        while answer.more:
            rest = await heap_of(connection).discard(request, request.reason, _who())
            answer = rest.model_copy(update={"discarded": answer.discarded + rest.discarded})
        return answer

    answer = talk(act)
    if json:
        print_json(plain(answer))
    else:
        say(f"{answer.discarded} discarded")
    for refusal in answer.refused:
        complain(f"{refusal.id}: {refusal.problem}")
    if answer.refused:
        raise typer.Exit(REFUSED)


# ---- what they share -------------------------------------------------------------------------------------------------


def _request(model: type[S], **fields: Any) -> S:
    try:
        return model(**fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(f"{where}: {said}" if where else said) from None


def _show_matches(selection: Selection, json: bool) -> None:
    async def read(connection: Connection) -> tuple[Matches, datetime]:
        return await heap_of(connection).matches(selection), connection.store.clock.now()

    matches, now = talk(read)
    if json:
        print_json({"matches": plain(matches)})
        return
    _show_dead(matches.sample, now)
    for refusal in matches.refused:
        complain(f"{refusal.id}: {refusal.problem}")
    least = "" if matches.complete else "at least "
    say(f"{least}{matches.count} would be meant; nothing was changed.")


def _show_dead(tasks: list[Task], now: datetime) -> None:
    if not tasks:
        say("There are no such dead letters.")
        return
    table(
        ("ID", "TYPE", "DIED", "FINGERPRINT", "REASON", "ERROR"),
        [
            (
                task.id,
                task.task_type,
                relative(task.finished_at, now) if task.finished_at is not None else None,
                task.last_error.fingerprint if task.last_error is not None else None,
                task.reason,
                f"{task.last_error.type}: {task.last_error.message}" if task.last_error is not None else None,
            )
            for task in tasks
        ],
    )


def _who() -> str:
    try:
        return f"{getpass.getuser()} on the command line"
    except (KeyError, OSError):  # an account without a name, as in a container
        return "somebody on the command line"
