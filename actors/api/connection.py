"""A connection of the admin API, one of at most so many: who keeps Verger waiting makes way for who comes."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MOST = 512
"""Connections at a time. Half of what a process may open on most machines: the servers' need some too."""


class Connection(H11Protocol):
    """With ``MOST`` open, the oldest one that waits for its client is cut, or where none does, the new one.

    So clients that say nothing, or drip what they say, or do not read, hold no descriptor that another one needs, and
    there is no time limit for anybody where there is room.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.since = 0.0
        """When it was made, in seconds of the loop."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > MOST:
            others = [each for each in self.connections if isinstance(each, Connection) and each is not self]
            waiting = [each for each in others if each.waits_for_client]
            cut = min(waiting, key=lambda each: each.since, default=self)
            self.connections.discard(cut)
            cut.transport.abort()

    @property
    def waits_for_client(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # none before the first request, whatever uvicorn says
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused
