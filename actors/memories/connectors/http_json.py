"""The connector ``http_json``: pages of JSON over HTTP.

``GET url?limit=100&cursor=…`` answers ``{"items": [{"id": …, "text": …, …}], "nextCursor": …}``. The parameters and
the fields have the names that the config gives; ``items`` and ``nextCursor`` may be paths such as ``data.items``.
Without a next cursor, or with null, the last page is reached, and the next run asks with the last cursor again: an API
whose cursor is a position gives what came since, and what was seen before makes no second candidate.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson
from pydantic import Field

from actors.maintenance.blocking import in_thread
from actors.maintenance.http import HttpRefused, HttpUnavailable
from actors.maintenance.http.retry_after import retry_after
from actors.memories.connectors.config import read_config
from actors.memories.connectors.port import (
    Connector,
    ConnectorRefused,
    ConnectorUnavailable,
    Item,
    Malformed,
    Page,
    Source,
)
from schemas.base import Model

BUSY = frozenset({408, 425, 429})
"""Answers that may be others the next time, like all from 500 on."""
MOST_CURSOR = 4000
"""Characters: it is sent in a URL."""
MOST_ID = 500
COPIED = ("clusterId", "metadata")
"""Fields of an item that a candidate has too."""


class HttpJsonConfig(Model):
    """``config`` of an integration of this kind."""

    url: str = Field(max_length=4000, description="What is asked; its query is kept.")
    secret_ref: str | None = Field(None, description="Secret that is sent as `Authorization: Bearer …`.")
    cursor_parameter: str = Field("cursor", min_length=1, max_length=100)
    limit_parameter: str | None = Field("limit", min_length=1, max_length=100, description="null: none is sent.")
    items: str = Field("items", max_length=200, description="Path to the list of items; empty: the answer is the list.")
    next_cursor: str = Field("nextCursor", min_length=1, max_length=200, description="Path to the next cursor.")
    id: str = Field("id", min_length=1, max_length=200, description="Field of an item with its id, a text or integer.")
    text: str = Field("text", min_length=1, max_length=200, description="Field of an item with its text.")


class HttpJson(Connector):
    """Asks through the client that lets nobody reach an address that is not public."""

    def __init__(self, source: Source) -> None:
        """Raises ConnectorRefused."""
        self._config = read_config(HttpJsonConfig, source.config)
        self._source = source

    async def pull(self, cursor: Any, *, limit: int) -> Page:
        answer = await in_thread(_read, await self._ask(cursor, limit))
        found = _at(answer, self._config.items)
        if not isinstance(found, list):
            raise ConnectorRefused(f"the answer has no list at {self._config.items or 'its top'!r}")
        following = _at(answer, self._config.next_cursor) if isinstance(answer, dict) else None
        if following is not None and (
            not isinstance(following, (str, int)) or not 0 < len(str(following)) <= MOST_CURSOR
        ):
            raise ConnectorRefused(f"the answer's {self._config.next_cursor!r} is no cursor")
        items: list[Item] = []
        malformed: list[Malformed] = []
        for place, each in enumerate(found):
            item = self._item(each, place)
            if isinstance(item, Item):
                items.append(item)
            else:
                malformed.append(item)
        # Some say where they stand also at the end.
        more = following is not None and bool(found or following != cursor)
        return Page(items, following if more else cursor, more, malformed)

    async def _ask(self, cursor: Any, limit: int) -> bytes:
        headers = {"Accept": "application/json"}
        if self._source.secret is not None:
            headers["Authorization"] = f"Bearer {self._source.secret}"
        try:
            answer = await self._source.http.request(
                "GET",
                self._url(cursor, limit),
                headers=headers,
                body=None,
                timeout=self._source.timeout,
                max_bytes=self._source.max_page_bytes,
            )
        except HttpUnavailable as error:
            raise ConnectorUnavailable(str(error)) from error
        except HttpRefused as error:
            raise ConnectorRefused(str(error)) from error
        if answer.status == 200:
            return answer.body
        problem = f"the other side answers {answer.status}"
        if answer.status in BUSY or answer.status >= 500:
            raise ConnectorUnavailable(problem, after=retry_after(answer.headers, datetime.now(UTC)))
        raise ConnectorRefused(problem)

    def _url(self, cursor: Any, limit: int) -> str:
        """Raises ConnectorRefused."""
        try:
            parts = urlsplit(self._config.url)
        except ValueError as error:
            raise ConnectorRefused(f"config.url: {error}") from None
        added = {} if cursor is None else {self._config.cursor_parameter: str(cursor)}
        if self._config.limit_parameter is not None:
            added[self._config.limit_parameter] = str(limit)
        kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in added]
        return urlunsplit(parts._replace(query=urlencode([*kept, *added.items()]), fragment=""))

    def _item(self, found: Any, place: int) -> Item | Malformed:
        if not isinstance(found, dict):
            return Malformed(f"number {place}", "is not an object")
        key, text = found.get(self._config.id), found.get(self._config.text)
        if isinstance(key, bool) or not isinstance(key, (str, int)) or not 0 < len(str(key)) <= MOST_ID:
            return Malformed(f"number {place}", f"has no id at {self._config.id!r}")
        if not isinstance(text, str):
            return Malformed(str(key), f"has no text at {self._config.text!r}")
        return Item(str(key), {"text": text} | {name: found[name] for name in COPIED if found.get(name) is not None})


def _read(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ConnectorRefused(f"the answer is not JSON: {error}") from None


def _at(value: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, dict) else None
    return value
