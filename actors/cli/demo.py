"""``verger demo``: data to try the maintenance actors on."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.options import Json
from actors.cli.output import note, print_json, table
from actors.cli.session import talk
from actors.composition import Connection

if TYPE_CHECKING:
    from actors.demo.seed import Written

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def demo() -> None:
    """Data to try the maintenance actors on."""


@app.command("seed")
def seed_command(
    force: Annotated[
        bool, typer.Option("--force", help="Also where a collection holds other data, which is not touched.")
    ] = False,
    json: Json = False,
) -> None:
    """Fill VERGER_MEMORY_DATABASE with a small data set, on which every actor has something to do.

    Three tenants of a memory service, with ids that begin with `demo-`; files below VERGER_DATA_DIR. Doing it again
    makes all of it what it was in the beginning.
    """

    async def write(connection: Connection) -> "list[Written]":
        from actors.demo.seed import seed

        return await seed(connection.settings, connection.store.clock.now(), force=force)

    written = talk(write)
    if json:
        print_json({"written": [asdict(each) for each in written]})
        return
    rows = [(each.family, each.place, str(each.number), each.what) for each in written]
    table(("FAMILY", "WHERE", "NUMBER", "WHAT"), rows, fold=1)
    note("The actors find work now: verger schedules apply examples/schedules.json, or verger enqueue TYPE.")
