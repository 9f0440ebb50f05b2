"""Every refusal and every failure as problem details (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from schemas.problem import MEDIA_TYPE, Problem, WrongField
from service.errors import (
    SHOWN,
    ConfigError,
    Conflict,
    InvalidInput,
    InvalidSchedule,
    NotFound,
    Outdated,
    Unavailable,
)

MEANINGS = {
    400: "The request cannot be read.",
    401: "The key is missing or is not valid.",
    403: "The role of the key does not allow this, or a page of another site asks.",
    404: "There is no such thing.",
    405: "This path does not know the method.",
    408: "The body did not arrive in time.",
    409: "The state has moved on, or does not allow this; look again.",
    412: "It is not what you have seen: its ETag is another than that of `If-Match`.",
    413: "The body is too large.",
    415: "The body is not JSON, or does not say so.",
    421: "The Host header names no host of this API.",
    422: "A value is wrong; `errors` names the field, the value and the fix.",
    429: "Too many attempts with wrong keys; `Retry-After` says for how many seconds.",
    500: "Verger failed; `reference` is in its log.",
    503: "The store or the broker cannot be reached, did not answer in time, or refuses the API.",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside success, for its ``responses`` parameter: ``responses(404, 409)``.

    What every route may answer is documented for all of them at once, in ``actors/api/openapi.py``.
    """
    return {status: {"description": MEANINGS[status], "content": content()} for status in statuses}


def content() -> dict[str, Any]:
    """The body of a refusal, for the OpenAPI document."""
    return {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, path: str | None = None, **more: Any
) -> Response:
    """The answer. ``more``: ``errors`` or ``reference``."""
    title = HTTPStatus(status).phrase
    body = Problem(title=title, status=status, detail=detail, instance=path, **more)
    # Escaped to ASCII: what strangers send may hold halves of surrogate pairs, which are no UTF-8.
    text = json.dumps(body.model_dump(mode="json", by_alias=True, exclude_none=True))
    return Response(text, status, headers, media_type=MEDIA_TYPE)


def explain_errors(app: FastAPI) -> None:
    """Make every error that a route raises a problem."""
    app.add_exception_handler(InvalidInput, _invalid)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _refused)
    for kind, status in ((NotFound, 404), (Conflict, 409), (Outdated, 412), (Unavailable, 503), (ConfigError, 503)):
        app.add_exception_handler(kind, _ours(status))


def _ours(status: int) -> Any:
    async def answer(request: Request, error: Exception) -> Response:
        return problem(status, str(error), path=request.url.path)

    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidInput)
    wrong = WrongField(field=error.field, problem=error.problem, value=error.value, fix=error.fix or None)
    if isinstance(error, InvalidSchedule):
        place = {"index": error.index, "id": error.schedule_id, "line": error.line}
        wrong = wrong.model_copy(update=place)
    return problem(422, str(error), path=request.url.path, errors=[wrong])


async def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        place = f"at character {found[0]['loc'][-1]}"
        return problem(400, f"the body is no JSON: {found[0]['ctx']['error']} {place}", path=request.url.path)
    wrong = [_wrong(each) for each in found[:MOST_ERRORS]]
    first = wrong[0]
    detail = " ".join(part for part in (f"{first.field}: {_shown(first)}{first.problem};", first.fix) if part)
    return problem(422, detail, path=request.url.path, errors=wrong)


MOST_ERRORS = 20
"""How many wrong values are named at most."""


def _shown(wrong: WrongField) -> str:
    return f"{wrong.value!r} " if wrong.value is not None else ""


def _wrong(error: Mapping[str, Any]) -> WrongField:
    """One of pydantic's errors, in the form of ours."""
    where, *path = error["loc"]
    field = ".".join(str(part) for part in path)[:SHOWN] or str(where)
    message = str(error["msg"]).removeprefix("Value error, ")[:500]
    match error["type"]:
        case "missing":
            return WrongField(field=field, problem="is missing", fix="send it")
        case "extra_forbidden":
            return WrongField(field=field, problem="is not known here", fix="leave it out")
    sent = error["input"]
    text = sent if isinstance(sent, str) else repr(sent)
    value = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    return WrongField(field=field, problem="is not accepted", value=value, fix=message[:1].lower() + message[1:])


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 400:
        detail = "the body cannot be read: it is no JSON in UTF-8, or it nests too deeply"
    elif error.status_code == 404:
        detail = "there is nothing at this path; /openapi.json lists what there is"
    elif error.status_code == 405:
        detail = f"this path does not know {request.method}; see the Allow header"
    return problem(error.status_code, detail, headers=error.headers, path=request.url.path)
