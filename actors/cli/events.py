"""``verger events``: what happens, as it happens."""

import asyncio
import json as codec
import sys
from typing import Annotated

import typer

from actors.cli.moments import stamp
from actors.cli.options import Json
from actors.cli.output import note, plain, say
from actors.cli.session import talk
from actors.composition import Connection
from schemas.event import Event, EventName
from service.errors import ConfigError
from service.settings import MEMORY_BROKER

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
BEHIND = 10_000
"""How many may wait to be written; what is more is dropped, and said."""


@app.callback()
def events() -> None:
    """Listen to events."""


@app.command()
def tail(
    types: Annotated[list[EventName] | None, typer.Option("--type", help="Only these; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="End after so many.")] = None,
    json: Json = False,
) -> None:
    """Print events as they happen, until Ctrl-C. With `--json`, each is one line."""

    async def listen(connection: Connection) -> None:
        if connection.settings.amqp_url == MEMORY_BROKER:
            raise ConfigError(
                "the events of verger dev stay in its process: listen with curl -N URL/admin/events, "
                "at the URL that it shows as its admin API"
            )
        inbox = _Inbox(types or ())
        await connection.broker.listen(inbox.put, lambda: note("The connection was lost: events may be missing."))
        note("Listening; Ctrl-C ends it.")
        count = 0
        while limit is None or count < limit:
            for event in await inbox.take():
                if limit is None or count < limit:
                    _show(event, json)
                    count += 1

    talk(listen, publishes=True)


class _Inbox:
    """Between the broker, which waits for nobody, and a terminal."""

    def __init__(self, types: "list[EventName] | tuple[()]") -> None:
        self._types = frozenset(types)
        self._waiting: list[Event] = []
        self._missed = 0
        self._arrived = asyncio.Event()

    def put(self, event: Event) -> None:
        if self._types and event.event not in self._types:
            return
        if len(self._waiting) < BEHIND:
            self._waiting.append(event)
            self._arrived.set()
        else:
            self._missed += 1

    async def take(self) -> list[Event]:
        await self._arrived.wait()
        self._arrived.clear()
        taken, self._waiting = self._waiting, []
        if self._missed:
            note(f"{self._missed} events were dropped: they come faster than they can be written.")
            self._missed = 0
        return taken


def _show(event: Event, json: bool) -> None:
    if json:
        sys.stdout.write(codec.dumps(plain(event), ensure_ascii=False) + "\n")
    else:
        about = [event.task_id, event.task_type, event.schedule_id if event.task_id is None else None]
        detail = [f"{name}={value}" for name, value in event.detail.items() if value is not None]
        say(" ".join([stamp(event.at), event.event, *(part for part in about if part), *detail]))
    sys.stdout.flush()
