"""``verger audit``: who changed what through the admin API."""

from typing import Annotated

import typer

from actors.cli.moments import stamp
from actors.cli.options import Json
from actors.cli.output import note, plain, pretty, print_json, say, table
from actors.cli.session import talk
from actors.composition import Connection
from schemas.access import AuditEntry, AuditPage


def audit(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where an earlier list ended.")] = None,
    json: Json = False,
) -> None:
    """List what was changed through the admin API, newest first: when, by which key, what, and how."""

    async def read(connection: Connection) -> AuditPage:
        return await connection.store.audit.find(limit=limit, cursor=cursor)

    page = talk(read)
    if json:
        print_json(plain(page))
        return
    if page.entries:
        rows = [(stamp(each.at), each.who, each.action, each.target, _change(each)) for each in page.entries]
        table(("WHEN", "WHO", "WHAT", "TARGET", "CHANGE"), rows, fold=3)
    else:
        say("Nothing was changed.")
    if page.cursor is not None:
        note(f"There are more: --cursor {page.cursor}")


def _change(entry: AuditEntry) -> str:
    before, after = (pretty(value) if value is not None else "" for value in (entry.before, entry.after))
    return f"{before} → {after}" if before and after else before or after
