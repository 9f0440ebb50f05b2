"""The port of connectors: where the candidates of an integration come from, page by page."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from actors.maintenance.http import Http
from service.errors import VergerError


class ConnectorUnavailable(VergerError):
    """The other side did not answer, or not in time, or that it is busy: try again later, and not before ``after``."""

    def __init__(self, problem: str, *, after: timedelta = timedelta()) -> None:
        super().__init__(problem)
        self.after = after


class ConnectorRefused(VergerError):
    """The other side will not have it, its answer cannot be used, or the integration's config is wrong."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was found."""

    id: str
    """The same whenever it is found."""
    candidate: Mapping[str, Any]
    """As ``memories.capture`` wants it."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """What was found and is no item."""

    id: str
    """As far as it can be told."""
    problem: str


@dataclass(frozen=True, slots=True)
class Page:
    """What came after a cursor, in its order."""

    items: list[Item]
    cursor: Any
    """A JSON value: where the next page begins. Kept in the integration's document."""
    more: bool
    """There is a next page now."""
    malformed: list[Malformed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """What a connector is made of."""

    config: Mapping[str, Any]
    """``config`` of the integration. Tenants may have written it: a connector trusts nothing in it."""
    http: Http
    secret: str | None
    """What the config's ``secretRef`` names."""
    root: Path
    """No file outside this folder is read."""
    timeout: timedelta
    """Of one request."""
    max_page_bytes: int
    """Of one answer, or of the files of one page."""
    max_item_bytes: int
    """A larger item is skipped by whoever asked; this is for a connector that need not read it."""


class Connector(Protocol):
    """Made for one run; reads, and changes nothing on the other side."""

    @abstractmethod
    async def pull(self, cursor: Any, *, limit: int) -> Page:
        """About ``limit`` items after the cursor; None is the beginning.

        The same cursor again gives the same items again, as far as they are still there. When nothing is left, the page
        has no ``more``, and its cursor is where new items will appear.

        Raises ConnectorUnavailable, ConnectorRefused.
        """
