"""Who asks, and whether he may."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer

from schemas.access import Caller, KeyRole

LOCAL = Caller(name="local", role=KeyRole.ADMIN)
"""Whoever asks where no key is needed: on the loopback address of his own machine."""

_documented = HTTPBearer(auto_error=False, description="A key, as `verger keys create` prints it.")


def _at_least(role: KeyRole) -> Callable[..., Coroutine[Any, Any, Caller]]:
    # The gate has found out who it is before the body was read; the header is named here for the OpenAPI document.
    async def check(request: Request, _header: Annotated[Any, Depends(_documented)]) -> Caller:
        caller: Caller = request.scope["caller"]
        if caller.role.rank < role.rank:
            raise HTTPException(403, f"this needs a key with the role {role.value}")
        return caller

    return check


Viewer = Annotated[Caller, Depends(_at_least(KeyRole.VIEWER))]
Operator = Annotated[Caller, Depends(_at_least(KeyRole.OPERATOR))]
Admin = Annotated[Caller, Depends(_at_least(KeyRole.ADMIN))]
"""The types of a route's parameter ``caller``: it is reached by keys of that role or a higher one only."""
