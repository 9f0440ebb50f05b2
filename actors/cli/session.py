"""From the environment to a connection, for one command."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from actors.cli.logs import set_up_logs
from actors.composition import Connection, connect
from service.schedule_entry import Rules
from service.settings import Settings, load_settings
from service.timetable import Timetable

T = TypeVar("T")


def client_settings() -> Settings:
    """The settings; a client logs warnings only, for people, unless the environment says otherwise."""
    settings = load_settings()
    set_up_logs(settings, log_level="warning", log_format="console")
    return settings


def talk(action: Callable[[Connection], Awaitable[T]], *, publishes: bool = False) -> T:
    """Connect, act, disconnect. ``publishes``: the action has something to tell the workers."""
    settings = client_settings()

    async def session() -> T:
        async with connect(settings, publishes=publishes) as connection:
            return await action(connection)

    return asyncio.run(session())


def timetable(connection: Connection, *, allow_unknown: bool = False) -> Timetable:
    """The schedules of a connection."""
    rules = Rules(connection.registry, allow_unknown, connection.settings.max_message_bytes)
    return Timetable(connection.store.schedules, connection.client, connection.store.clock, rules)
