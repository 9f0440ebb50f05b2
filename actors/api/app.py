"""The admin API as an ASGI app."""

import asyncio

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from actors.api import routes
from actors.api.gate import Gate
from actors.api.openapi import document, document_json
from actors.api.parts import Parts
from actors.api.problems import explain_errors
from service.access_keys import KeyRing
from service.errors import InvalidInput
from service.version import VERSION

MOST_BYTES = 8 * 1024 * 1024
"""Of a request's body. What a task's body may have is a setting, which is at most this."""


def make_api(parts: Parts, keys: KeyRing) -> FastAPI:
    """The whole API on these parts, for whoever has one of these keys."""
    app = FastAPI(
        title="Verger",
        version=VERSION,
        # Its pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # What is not found is a problem, not a redirection.
        redirect_slashes=False,
        dependencies=[Depends(_refuse_unknown_parameters)],
    )
    app.state.parts = parts
    # Set when the server stops: an answer that goes on for ever ends then.
    app.state.closing = asyncio.Event()
    routes.include(app)
    explain_errors(app)
    app.get("/openapi.json", include_in_schema=False)(_document)
    app.add_middleware(Gate, keys=keys, hosts=parts.settings.api_hosts, most_bytes=MOST_BYTES)
    return app


async def _document() -> Response:
    # In a thread: it takes half a second to make, once.
    return Response(await asyncio.to_thread(document_json), media_type="application/json")


async def _refuse_unknown_parameters(request: Request) -> None:
    """A filter that is misspelt must not select everything."""
    if not request.query_params:
        return
    route = request.scope["route"]
    operation = (await asyncio.to_thread(document))["paths"].get(route.path_format, {}).get(request.method.lower())
    if operation is None:
        return
    known = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
    for name, value in request.query_params.multi_items():
        if name not in known:
            fix = f"known: {', '.join(known)}" if known else "this path takes none"
            raise InvalidInput(name, value, "is no parameter of this path", fix)
