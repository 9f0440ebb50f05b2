"""What callers of the admin API send never becomes a part of a query, a path of a file, or a fault."""

import asyncio
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from actors.api.openapi import document
from schemas.task import TaskStatus
from service.store.port import TaskFilter
from tests.actors.api.conftest import Api, serving

JSON = {"Content-Type": "application/json"}
NINES = "9" * 5000
OPERATORS: dict[str, Any] = {
    "$set": {"status": "completed"},
    "$where": "sleep(60000)",
    "a.b": {"$ne": None},
    "$$NOW": "$taskBody",
    "": {"$gt": ""},
    "__proto__": {"x": 1},
    "_id": {"$ne": None},
}
NAMES = ['{"$ne":null}', "../../etc/passwd", "a\r\nX-Header: 1\0"]
MORE_NAMES = ["$where", "..", "(a+)+$", "\ud7ff\ufeff", "x" * 5000, "%00", "%2e%2e%2f", "fire:x", "\x1b[2J", ".*"]
BODIES: dict[str, bytes] = {
    "operators": json.dumps(OPERATORS).encode(),
    "an operator as each value": b'{"id":{"$ne":null},"ids":{"$gt":""},"reason":{"$ne":1},"by":{"$where":"1"}}',
    "a list of operators": b'{"ids":[{"$ne":null}],"schedules":[{"id":{"$ne":null}}]}',
    "lists in lists": b"[" * 300_000,
    "objects in objects": b'{"a":' * 100_000,
    "deep and closed": b'{"args":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "a long number": b'{"rate":' + NINES.encode() + b',"limit":' + NINES.encode() + b"}",
    "an endless number": b'{"rate":1e999,"limit":-1e999}',
    "no number": b'{"rate":NaN,"limit":Infinity}',
    "a key twice": b'{"reason":"a","reason":{"$ne":null}}',
    "no UTF-8": b'{"reason":"\xff\xfe"}',
    "a lone surrogate": b'{"reason":"\\ud800","id":"\\udfff"}',
    "a NUL": b'{"reason":"\\u0000","\\u0000":1}',
    "another encoding": '{"reason":"a"}'.encode("utf-16"),
    "nothing": b"",
    "null": b"null",
    "text": b'"$where"',
    "times before and after the calendar": b'{"from":"0001-01-01T00:00:00+23:59","to":"9999-12-31T23:59:59-23:59"}',
}
REFUSED = ("an operator as each value", "a list of operators")
STREAMS = ("/admin/events",)


@pytest.fixture
async def api(mongo_url: str, database: str) -> AsyncIterator[Api]:
    async with serving(mongo_url, database) as api:
        # Paths with .. in them are others by the time they are looked up in the document.
        api.admin.event_hooks = {}
        yield api


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each."""
    found = [(method, path, said) for path, methods in document()["paths"].items() for method, said in methods.items()]
    return [(method.upper(), path, said) for method, path, said in found if path not in STREAMS]


def filled(path: str, name: str) -> str:
    return re.sub(r"{\w+}", lambda _: quote(name, safe=""), path)


async def test_no_body_is_a_fault_whatever_it_holds(api: Api) -> None:
    wrong = []
    asked = [(method, path) for method, path, said in operations() if "requestBody" in said]
    assert len(asked) > 8
    for method, path in asked:
        for name, content in BODIES.items():
            answer = await api.admin.request(method, filled(path, "api.echo"), content=content, headers=JSON)
            # What is triggered is given a body of its own choice.
            taken = answer.is_success and name in REFUSED and path != "/admin/tasks/{taskType}"
            if answer.status_code >= 500 or taken:
                wrong.append(f"{method} {path} answers {answer.status_code} to {name}: {answer.text[:200]}")

    assert wrong == []


@pytest.mark.parametrize("names", [NAMES, pytest.param(MORE_NAMES, marks=pytest.mark.long)], ids=["some", "all"])
async def test_no_name_in_a_path_or_a_query_is_a_fault_or_an_operator(api: Api, names: list[str]) -> None:
    kept = await api.client.enqueue("api.echo", {"text": "mine"}, delay="1h")
    wrong = []
    for method, path, said in operations():
        queries = [each["name"] for each in said.get("parameters", ()) if each["in"] == "query"]
        paths = [filled(path, name) for name in names if "{" in path]
        paths += [f"{filled(path, 'api.echo')}?{query}={quote(name)}" for query in queries for name in names]
        paths += [f"{filled(path, 'api.echo')}?{query}[$ne]=x" for query in queries[:1]]
        content = b"{}" if "requestBody" in said else None
        for target in paths:
            answer = await api.admin.request(method, target, content=content, headers=JSON if content else {})
            if answer.status_code >= 500 or "x-header" in answer.headers:
                wrong.append(f"{method} {target[:100]} answers {answer.status_code}")
            elif "[$ne]" in target and answer.status_code != 422:
                wrong.append(f"{method} {target[:100]} answers {answer.status_code} instead of 422")

    assert wrong == []
    assert (await api.client.get(kept.id)).status is TaskStatus.PENDING


async def test_a_filter_finds_what_is_called_so_and_nothing_else(api: Api) -> None:
    await api.client.enqueue("api.echo", {}, delay="1h", tenant_id="acme")
    for tenant in ('{"$ne":null}', "$ne", ".*", "", "acme\0"):
        answer = await api.viewer.get("/admin/tasks", params={"tenantId": tenant})
        assert answer.status_code == 422 or answer.json()["tasks"] == [], tenant
    failed = await api.client.enqueue("api.fails", {"why": "a.b (x) $where"})
    await api.client.wait(failed.id)
    for text, count in ((".*", 0), ("a.b", 1), ("a_b", 0), ("A.B (X)", 1), ("(", 1), ("(a+)+$", 0), ("\\", 0)):
        answer = await api.viewer.get("/admin/tasks", params={"error": text, "status": "failed"})
        assert len(answer.json()["tasks"]) == count, text


@pytest.mark.parametrize(
    "held",
    [
        ["2026-01-01T00:00:00+00:00", {"$ne": None}],
        [{"$gt": ""}, "x"],
        ["0001-01-01T00:00:00+23:59", "x"],
        ["9999-12-31T23:59:59-23:59", "x"],
        [1, 2, 3],
        {"$where": "1"},
        [["a"] * 1000] * 2,
    ],
    ids=str,
)
async def test_a_cursor_that_was_made_up_is_no_operator(api: Api, held: Any) -> None:
    await api.client.enqueue("api.echo", {}, delay="1h")
    cursor = urlsafe_b64encode(json.dumps(held).encode()).decode().rstrip("=")

    for path in ("/admin/tasks", "/admin/dead-letters", "/admin/audit"):
        answer = await api.admin.get(path, params={"cursor": cursor})
        assert answer.status_code == 422 or not (answer.json().get("tasks") or answer.json().get("entries")), path


async def test_operators_in_a_body_are_kept_and_answered_as_they_came(api: Api) -> None:
    answer = await api.operator.post("/admin/tasks/api.fails", json=OPERATORS)
    task = await api.client.wait(answer.json()["task"]["id"])

    assert task.task_body == OPERATORS
    assert task.status is TaskStatus.FAILED
    assert (await api.viewer.get(f"/admin/tasks/{task.id}")).json()["taskBody"] == OPERATORS
    (again,) = (await api.client.find(TaskFilter(task_type="api.fails"), limit=10)).tasks
    assert again.task_body == OPERATORS


@pytest.mark.parametrize(
    "headers",
    [
        f"Content-Length: {NINES}\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        f"If-Match: {NINES}\r\nContent-Length: 2\r\nContent-Type: application/json\r\n",
        'If-Match: "9999999999999999999999"\r\nContent-Length: 2\r\nContent-Type: application/json\r\n',
        "Last-Event-ID: \x80\xff\r\n",
        "Content-Type: " + "a" * 60_000 + "\r\nContent-Length: 2\r\n",
        "X: " + "a" * 200_000 + "\r\n",
        "Host: localhost\r\nHost: evil\r\n",
        "Authorization: Bearer " + "x" * 60_000 + "\r\n",
        "Authorization: Bearer \xe4\r\n",
    ],
    ids=lambda headers: headers[:40].strip(),
)
async def test_no_header_is_a_fault(api: Api, headers: str) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    authorization = "" if "Authorization" in headers else f"Authorization: {api.admin.headers['authorization']}\r\n"
    named = "" if headers.startswith("Host") else "Host: localhost\r\n"
    request = f"PATCH /admin/schedules/one HTTP/1.1\r\n{named}{authorization}{headers}Connection: close\r\n\r\n{{}}"
    writer.write(request.encode("latin-1"))
    try:
        async with asyncio.timeout(60):
            answer = await reader.read()
    except ConnectionResetError:
        answer = b""
    writer.close()

    assert not answer or 400 <= int(answer.split()[1]) < 500, answer[:300]
