"""``verger schedules backfill``."""

from typing import Annotated

import typer

from actors.cli.moments import iso, parse_moment, stamp
from actors.cli.options import Json
from actors.cli.output import plain, print_json, say, table
from actors.cli.session import talk, timetable
from actors.composition import Connection
from schemas.backfill import MOST, Backfill, BackfillOutcome, BackfillRequest
from schemas.schedule import Overlap
from service.backfill import backfill as make
from service.triggers import zone_of

Start = Annotated[str, typer.Option("--from", help="First instant.")]
End = Annotated[str | None, typer.Option("--to", help="End, not included; default: now.")]


def backfill(
    schedule_id: Annotated[str, typer.Argument(metavar="ID")],
    start: Start,
    end: End = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST, help="Due instants to look at.")] = 100,
    overlap: Annotated[
        Overlap | None, typer.Option("--overlap", help="Instead of the schedule's: allow makes all tasks at once.")
    ] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also instants of which nothing is kept: they may have run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do and change nothing.")] = False,
    json: Json = False,
) -> None:
    """Make the tasks of due instants that made none: missed, skipped, paused, or before the schedule existed.

    Each has the id of its fire, so doing it twice changes nothing. Instants are ISO 8601; without an offset they are in
    the schedule's time zone.
    """

    async def act(connection: Connection) -> Backfill:
        zone = zone_of((await timetable(connection).get(schedule_id)).timezone)
        request = BackfillRequest(
            start=parse_moment(start, "--from", zone),
            end=parse_moment(end, "--to", zone) if end is not None else None,
            limit=limit,
            overlap=overlap,
            unknown=unknown,
            dry_run=dry_run,
        )
        return await make(connection.store, connection.client, connection.registry, schedule_id, request)

    done = talk(act, publishes=not dry_run)
    if json:
        print_json(plain(done))
    else:
        _show(done)


def _show(done: Backfill) -> None:
    if done.fires:
        rows = [(stamp(fire.at), fire.outcome.value, fire.state.value, fire.reason) for fire in done.fires]
        table(("DUE", "OUTCOME", "WAS", ""), rows, fold=3)
    noun = "task" if done.created == 1 else "tasks"
    say(f"{done.created} {noun} {'would be created: this was a dry run' if done.dry_run else 'created'}.")
    outcomes = {fire.outcome for fire in done.fires}
    if BackfillOutcome.OVERLAP in outcomes:
        say("The others wait for it to end: repeat this then, or give --overlap allow to have all at once.")
    if BackfillOutcome.UNKNOWN in outcomes:
        say("Of some nothing is kept, so they may have run: --unknown makes their tasks too.")
    if done.continue_from is not None:
        say(f"There are more: go on with --from {iso(done.continue_from)}.")
