"""The OpenAPI document tells the truth: whatever is asked, no answer is a fault, and none is undocumented."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from actors.api import openapi
from tests.actors.api.conftest import Api

EXAMPLES = 8
"""For each operation, of requests that should be right, and as many of others."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
STREAMS = ("/admin/events",)
"""Their answers do not end."""

# A failure names its request: nothing has to be kept to have it again.
settings = hypothesis.settings(
    max_examples=EXAMPLES,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_the_document_is_made_once_however_many_ask_for_it_at_once() -> None:
    openapi._made.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(lambda _: openapi.document(), range(8))

    assert all(other is first for other in others)


async def test_every_answer_is_documented(api: Api) -> None:
    document = (await api.stranger.get("/openapi.json")).json()
    headers = {"Authorization": api.admin.headers["authorization"]}

    failures = await asyncio.to_thread(ask_everything, document, api.url, headers)

    assert not failures, "\n\n".join(failures)


def ask_everything(document: dict[str, Any], url: str, headers: dict[str, str]) -> list[str]:
    """In a thread: the API is served by the loop of the test. Returns what was wrong."""
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    schema.config.update(base_url=url)
    failures = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.path in STREAMS:
            continue
        for mode in GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)

            @settings
            @hypothesis.given(case=strategy)
            def ask(case: Any) -> None:
                case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)

            try:
                ask()
            except Unsatisfiable:
                continue  # there is nothing that could be wrong with it
            except Exception as error:
                # Whatever it is: it is reported with its operation, beside those of the others.
                failures.append(f"{operation.method.upper()} {operation.path} ({mode.value}): {error}")
    return failures
