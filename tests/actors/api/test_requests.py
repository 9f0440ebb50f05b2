"""What a request may look like, and what is said when it does not: problem details for every error."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.api.app import MOST_BYTES
from actors.api.parts import Engine
from service.errors import StoreUnavailable
from service.store.port import TaskFilter
from tests.actors.api.conftest import Api

JSON = {"Content-Type": "application/json"}


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem that an answer is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert (said["status"], said["type"]) == (status, "about:blank")
    assert said["title"]
    return said


async def test_an_unknown_path_and_an_unknown_method_are_problems(api: Api) -> None:
    assert "/openapi.json" in problem(await api.viewer.get("/admin/nothing"), 404)["detail"]
    refused = await api.viewer.delete("/admin/tasks")

    assert problem(refused, 405)["instance"] == "/admin/tasks"
    assert refused.headers["allow"] == "GET"


async def test_errors_of_the_engine_are_problems(api: Api) -> None:
    assert problem(await api.viewer.get("/admin/tasks/nothing"), 404)["detail"] == "there is no task 'nothing'"
    wrong = problem(await api.operator.post("/admin/tasks/api.echo", json={"times": 0}), 422)
    assert wrong["errors"] == [
        {
            "field": "taskBody.times",
            "problem": "input should be greater than or equal to 1",
            "value": "0",
            "fix": "see verger schema api.echo",
        }
    ]


async def test_a_wrong_value_is_named_with_its_fix(api: Api) -> None:
    answer = await api.viewer.get("/admin/tasks", params={"limit": "0", "status": "x" * 500})

    said = problem(answer, 422)
    assert {wrong["field"]: wrong["fix"] for wrong in said["errors"]} == {
        "status": "input should be 'pending', 'running', 'completed', 'failed' or 'cancelled'",
        "limit": "input should be greater than or equal to 1",
    }
    assert all(len(wrong["value"]) <= 121 for wrong in said["errors"])


async def test_a_parameter_that_is_misspelt_is_refused(api: Api) -> None:
    said = problem(await api.viewer.get("/admin/tasks", params={"satus": "failed"}), 422)

    assert said["errors"][0]["field"] == "satus"
    assert "status" in said["errors"][0]["fix"]


async def test_a_field_that_is_misspelt_is_refused(api: Api) -> None:
    said = problem(await api.operator.post("/admin/tasks/a/cancel", json={"forse": True}), 422)

    assert said["errors"] == [{"field": "forse", "problem": "is not known here", "fix": "leave it out"}]


@pytest.mark.parametrize(
    "content", [b"{", b'{"a": }', b"\xff\xfe", b"[" * 100_000, b'{"a": "\xc3"}', b"1e999999 x"], ids=repr
)
async def test_what_is_no_json_is_refused(api: Api, content: bytes) -> None:
    answer = await api.operator.post("/admin/tasks/api.echo", content=content, headers=JSON)

    assert "body" in problem(answer, 400)["detail"]


@pytest.mark.parametrize(
    "content", [b'{"text": "\\ud800"}', b'{"n": 18446744073709551616}', b'{"n": NaN}', b'{"\\u0000": 1}', b"[]", b"7"]
)
async def test_what_cannot_be_kept_is_refused(api: Api, content: bytes) -> None:
    problem(await api.operator.post("/admin/tasks/api.fails", content=content, headers=JSON), 422)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_says_that_it_is_json(api: Api, kind: str) -> None:
    answer = await api.operator.post("/admin/tasks/api.echo", content=b"{}", headers={"Content-Type": kind})

    problem(answer, 415)
    assert (await api.client.find(TaskFilter(), limit=1)).tasks == []


async def test_a_body_that_says_it_is_too_large_is_not_read(api: Api) -> None:
    said = await raw(api, f"Content-Length: {MOST_BYTES + 1}\r\n")

    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in said


async def test_a_body_that_grows_too_large_is_refused(api: Api) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 4 * MOST_BYTES:
            sent += 256 * 1024
            yield b" " * (256 * 1024)

    answer = await api.operator.post("/admin/tasks/api.echo", content=endless(), headers=JSON)

    problem(answer, 413)


async def test_a_task_may_be_as_large_as_the_setting_says(api: Api) -> None:
    most = api.app.settings.max_message_bytes

    answer = await api.operator.post("/admin/tasks/api.fails", json={"why": "x" * most})

    assert str(most) in problem(answer, 422)["detail"]


async def test_a_body_that_does_not_arrive_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.api.gate.BODY_SECONDS", 0.2)

    said = await raw(api, "Content-Length: 2\r\n", b"{")

    assert said.startswith(b"HTTP/1.1 408 ")


async def test_whoever_has_no_key_is_refused_before_his_body_is_read(api: Api) -> None:
    said = await raw(api, "Content-Length: 1000\r\n", b"{", key="vgr_wrong")

    assert said.startswith(b"HTTP/1.1 401 ")


async def raw(api: Api, headers: str, content: bytes = b"", key: str | None = None) -> bytes:
    """The answer to a request that a client would not send; its body never ends."""
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    bearer = f"Bearer {key}" if key is not None else api.operator.headers["authorization"]
    head = f"POST /admin/tasks/api.echo HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n{headers}\r\n".encode() + content)
    try:
        async with asyncio.timeout(10):
            return await reader.readuntil(b"}")
    finally:
        writer.close()


async def test_a_fault_of_ours_says_nothing_of_what_is_inside(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert api.app.api is not None

    async def broken(engine: Engine) -> None:
        raise RuntimeError("mongodb://user:password@db.example.org")

    api.app.api.app.get("/admin/broken")(broken)
    answer = await api.viewer.get("/admin/broken")

    said = problem(answer, 500)
    assert "mongodb" not in answer.text
    logged = capsys.readouterr()
    assert said["reference"] in logged.out + logged.err
    assert "request.failed" in logged.out + logged.err
    assert (await api.viewer.get("/admin/tasks")).status_code == 200


async def test_a_store_that_is_away_is_said(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("MongoDB at mongodb://db.example.org does not answer")

    monkeypatch.setattr(api.store.tasks, "get", away)

    assert "does not answer" in problem(await api.viewer.get("/admin/tasks/a"), 503)["detail"]


async def test_answers_are_kept_by_no_cache(api: Api) -> None:
    for answer in (await api.viewer.get("/admin/tasks"), await api.stranger.get("/admin/tasks")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["date"].endswith("GMT")
        assert "server" not in answer.headers


async def test_the_document_is_served_and_there_is_no_page_that_loads_scripts(api: Api) -> None:
    document = (await api.stranger.get("/openapi.json")).json()

    assert document["openapi"].startswith("3.1")
    for path in ("/docs", "/redoc"):
        assert (await api.admin.get(path)).status_code == 404


async def test_every_operation_says_what_it_is_for(api: Api) -> None:
    document = (await api.stranger.get("/openapi.json")).json()

    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), (method, path)
            assert operation.get("description"), (method, path)
            assert operation.get("tags"), (method, path)
            assert "HTTPValidationError" not in json.dumps(operation)
