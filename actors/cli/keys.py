"""``verger keys``: keys of the admin API."""

from typing import Annotated

import typer

from actors.cli.options import Json
from actors.cli.output import note, print_json, say
from schemas.access import KeyRole
from service.access_keys import create_key

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def keys() -> None:
    """Make keys of the admin API."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who has it: what the audit will call him.")],
    role: Annotated[KeyRole, typer.Option("--role", help="What it may do.")] = KeyRole.VIEWER,
    json: Json = False,
) -> None:
    """Make a key: it is shown this once, and kept nowhere. Needs no server.

    The line is for the file that VERGER_API_KEYS_FILE names (or for VERGER_API_KEYS): it holds only a hash. Delete it
    there to revoke the key.
    """
    key, kept = create_key(name, role)
    if json:
        print_json({"key": key, "name": name, "role": role.value, "line": str(kept)})
        return
    say(f"key   {key}")
    say(f"line  {kept}")
    note("The key is shown this once. The line goes into the file that VERGER_API_KEYS_FILE names.")
