"""The OpenAPI document: what FastAPI finds in the routes, and what the gate may answer for all of them."""

import json
import threading
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from actors.api import routes
from actors.api.gate import OPEN
from actors.api.problems import MEANINGS, content
from schemas.problem import Problem
from service.version import VERSION

DESCRIPTION = """What operators and programs ask of a Verger installation.

Keys have roles: a `viewer` looks; an `operator` also triggers, cancels, retries, pauses and resumes; an `admin` also
changes schedules, discards dead letters and reads the audit. Names are camelCase, instants are ISO 8601 in UTC, every
refusal is a problem (RFC 9457)."""
_METHODS = ("get", "put", "post", "delete", "patch")
_MAKING = threading.Lock()


def document() -> dict[str, Any]:
    """The document. It is the same for every installation, and made once: that takes half a second, and not by two
    threads at a time, since FastAPI changes the warnings of the whole process meanwhile."""
    with _MAKING:
        return _made()


@cache
def document_json() -> bytes:
    """The same, as it is sent."""
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


@cache
def _made() -> dict[str, Any]:
    app = FastAPI()
    routes.include(app)
    made = get_openapi(title="Verger", version=VERSION, description=DESCRIPTION, routes=app.routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs") | {"Problem": problem}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, operations in made["paths"].items():
        for method in _METHODS:
            if method in operations:
                _complete(operations[method], keyed=path not in OPEN)
    return made


def _complete(operation: dict[str, Any], *, keyed: bool) -> None:
    statuses = [400, 403, 413, 415, 421, 422, 500]
    if keyed:
        statuses += [401, 429, 503]
    if "requestBody" in operation:
        statuses += [408]
    answers = operation.setdefault("responses", {})
    for status in statuses:
        found = answers.get(str(status))
        if found is None or status == 422:
            answers[str(status)] = {"description": MEANINGS[status], "content": content()}
    answers |= {"429": _with_retry_after(answers["429"])} if "429" in answers else {}


def _with_retry_after(answer: dict[str, Any]) -> dict[str, Any]:
    header = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    return {**answer, "headers": {"Retry-After": header}}
