"""Revisions as ETags: what a client has seen, and changes only as long as it is that."""

from typing import Annotated

from fastapi import Depends, Header, Response

from service.errors import InvalidInput


def show_revision(response: Response, revision: int) -> None:
    response.headers["ETag"] = f'"{revision}"'


async def _revision(
    if_match: Annotated[
        str | None,
        Header(max_length=40, description="The `ETag` of what you have seen; it is changed only if it is still that."),
    ] = None,
) -> int | None:
    if if_match is None:
        return None
    number = if_match.strip().removeprefix('"').removesuffix('"')
    if not (number.isascii() and number.isdigit()):
        raise InvalidInput("header.if-match", if_match, "is no ETag of a schedule", 'send that of a GET, such as "3"')
    return int(number)


Seen = Annotated[int | None, Depends(_revision)]
"""The type of a route's parameter: the revision that ``If-Match`` names."""
