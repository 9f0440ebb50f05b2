"""Who is let in, and who is not: keys, roles, hosts, origins, attempts."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.api.attempts import AGAIN_SECONDS, MOST, MOST_ADDRESSES, Attempts
from actors.api.gate import OPEN
from actors.api.openapi import document
from schemas.access import KeyRole
from service.access_keys import KeyRing, create_key, parse_key
from service.errors import ConfigError, InvalidInput
from tests.actors.api.conftest import KEYS, Api, serving

ADMIN_KEY, ADMIN_LINE = KEYS[KeyRole.ADMIN][0], str(KEYS[KeyRole.ADMIN][1])

NEEDED = {
    ("get", "/admin/audit"): KeyRole.ADMIN,
    ("get", "/admin/dead-letters"): KeyRole.VIEWER,
    ("get", "/admin/dead-letters/groups"): KeyRole.VIEWER,
    ("post", "/admin/dead-letters/replay"): KeyRole.OPERATOR,
    ("post", "/admin/dead-letters/discard"): KeyRole.ADMIN,
    ("get", "/admin/events"): KeyRole.VIEWER,
    ("get", "/admin/index-state"): KeyRole.VIEWER,
    ("get", "/admin/jobs"): KeyRole.VIEWER,
    ("get", "/admin/queues"): KeyRole.VIEWER,
    ("get", "/admin/schedules"): KeyRole.VIEWER,
    ("put", "/admin/schedules"): KeyRole.ADMIN,
    ("get", "/admin/schedules/{}"): KeyRole.VIEWER,
    ("put", "/admin/schedules/{}"): KeyRole.ADMIN,
    ("patch", "/admin/schedules/{}"): KeyRole.ADMIN,
    ("delete", "/admin/schedules/{}"): KeyRole.ADMIN,
    ("get", "/admin/schedules/{}/explain"): KeyRole.VIEWER,
    ("post", "/admin/schedules/{}/backfill"): KeyRole.ADMIN,
    ("post", "/admin/schedules/{}/run"): KeyRole.OPERATOR,
    ("post", "/admin/schedules/{}/pause"): KeyRole.OPERATOR,
    ("post", "/admin/schedules/{}/resume"): KeyRole.OPERATOR,
    ("get", "/.config/cron.json"): KeyRole.VIEWER,
    ("put", "/.config/cron.json"): KeyRole.ADMIN,
    ("get", "/admin/task-types"): KeyRole.VIEWER,
    ("post", "/admin/task-types/{}/pause"): KeyRole.OPERATOR,
    ("post", "/admin/task-types/{}/resume"): KeyRole.OPERATOR,
    ("get", "/admin/tasks"): KeyRole.VIEWER,
    ("get", "/admin/tasks/{}"): KeyRole.VIEWER,
    ("post", "/admin/tasks/{}"): KeyRole.OPERATOR,
    ("post", "/admin/tasks/{}/cancel"): KeyRole.OPERATOR,
    ("post", "/admin/tasks/{}/retry"): KeyRole.OPERATOR,
    ("get", "/admin/tasks/{}/why"): KeyRole.VIEWER,
    ("get", "/admin/workers"): KeyRole.VIEWER,
    ("get", "/metrics"): KeyRole.VIEWER,
}
"""The least role of each route, its parameters without their names. One that is not here fails a test."""


def routes() -> list[tuple[str, str]]:
    paths = document()["paths"]
    return [(method, re.sub(r"{\w+}", "{}", path)) for path, methods in paths.items() for method in methods]


async def ask(client: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    """Something that changes nothing, if it is let in: there is no such thing, and a body is of no kind."""
    options: dict[str, Any] = {"json": []} if method in ("put", "patch", "post") else {}
    async with client.stream(method, path.replace("{}", "nothing"), **options) as answer:
        if answer.status_code != 200 or "event-stream" not in answer.headers["content-type"]:
            await answer.aread()
        return answer


async def test_every_route_has_its_role(api: Api) -> None:
    found = [route for route in routes() if route[1] not in OPEN]

    assert [route for route in found if route not in NEEDED] == []
    for method, path in found:
        for role in KeyRole:
            answer = await ask(api.of(role), method, path)
            allowed = role.rank >= NEEDED[method, path].rank
            assert (answer.status_code != 403) == allowed, (role, method, path, answer.status_code)
            assert answer.status_code not in (401, 429, 500), (role, method, path)


async def test_without_a_key_nothing_is_reached_but_probes_and_the_document(api: Api) -> None:
    for method, path in [*routes(), ("get", "/admin/nothing"), ("get", "/docs"), ("get", "/openapi.json")]:
        answer = await ask(api.stranger, method, path)
        if path in OPEN:
            assert answer.status_code in (200, 503)
        else:
            assert answer.status_code in (401, 429), (method, path)


async def test_refusals_do_not_tell_why(mongo_url: str, database: str) -> None:
    async with serving(mongo_url, database) as api:
        unknown = create_key("nobody", KeyRole.ADMIN)[0]
        headers = [
            {},
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": f"Basic {ADMIN_KEY}"},
            {"Authorization": "Bearer x"},
            {"Authorization": f"Bearer {ADMIN_KEY}x"},
            {"Authorization": f"Bearer {unknown}"},
            {"Authorization": f"Bearer {KEYS[KeyRole.ADMIN][1].hash}"},
        ]
        answers = [await api.stranger.get("/admin/tasks", headers=each) for each in headers]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="verger"'}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def filed(mongo_url: str, database: str, tmp_path: Path) -> AsyncIterator[tuple[Api, Path]]:
    """An installation whose only key is in a file."""
    path = tmp_path / "keys"
    path.write_text(f"# of the tests\n\n{ADMIN_LINE}\n")
    async with serving(mongo_url, database, api_keys=(), api_keys_file=path) as api:
        yield api, path


async def test_a_revoked_key_is_refused_at_once(filed: tuple[Api, Path]) -> None:
    api, path = filed
    assert (await api.admin.get("/admin/tasks")).status_code == 200

    path.write_text("")

    assert (await api.admin.get("/admin/tasks")).status_code == 401


async def test_a_new_key_is_good_at_once(filed: tuple[Api, Path]) -> None:
    api, path = filed
    assert (await api.viewer.get("/admin/tasks")).status_code == 401

    other = path.with_suffix(".new")
    other.write_text(f"{ADMIN_LINE}\n{KEYS[KeyRole.VIEWER][1]}\n")
    other.replace(path)

    assert (await api.viewer.get("/admin/tasks")).status_code == 200


async def test_a_damaged_line_lets_nobody_in_and_keeps_nobody_out(
    filed: tuple[Api, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    api, path = filed

    path.write_text(f"{ADMIN_KEY}:admin:what\n{KEYS[KeyRole.VIEWER][1]}\n")

    assert (await api.admin.get("/admin/tasks")).status_code == 401
    assert (await api.viewer.get("/admin/tasks")).status_code == 200
    said = capsys.readouterr()
    assert "keys.refused" in said.out + said.err
    assert "line 1" in said.out + said.err
    assert ADMIN_KEY not in said.out + said.err


async def test_without_its_file_nobody_is_let_in(filed: tuple[Api, Path], capsys: pytest.CaptureFixture[str]) -> None:
    api, path = filed

    path.unlink()

    assert (await api.admin.get("/admin/tasks")).status_code == 401
    said = capsys.readouterr()
    assert "cannot be read" in said.out + said.err


async def test_no_key_is_ever_logged(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    stray = create_key("nobody", KeyRole.ADMIN)[0]
    for role in KeyRole:
        await api.of(role).get("/admin/tasks")
        await api.of(role).post("/admin/tasks/api.echo", json={"text": KEYS[role][0]}, params={"id": "one"})
        await api.of(role).post("/admin/tasks/api.echo", content=b"{", headers={"content-type": "application/json"})
    await api.stranger.get("/admin/tasks", headers={"Authorization": f"Bearer {stray}"})
    await api.stranger.get("/admin/tasks", headers={"Authorization": stray})

    said = capsys.readouterr()
    assert "audit.noted" in said.out + said.err
    assert "access.refused" in said.out + said.err
    assert [key for key in (stray, *(key for key, _ in KEYS.values())) if key in said.out + said.err] == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "name"),
        ("ada", "role"),
        ("ada:operator", "SHA-256"),
        ("ada:chief:" + "0" * 64, "viewer, operator, admin"),
        ("a b:viewer:" + "0" * 64, "name"),
        ("ada:viewer:" + "0" * 63, "SHA-256"),
        ("ada:viewer:" + "0" * 64 + ":x", "SHA-256"),
        pytest.param(f"ada:viewer:{ADMIN_KEY}", "SHA-256", id="the key itself"),
    ],
)
def test_a_line_that_is_no_key_is_refused_without_being_shown(line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        KeyRing([line], None)

    assert "VERGER_API_KEYS, key 1" in str(refused.value)
    assert ADMIN_KEY not in str(refused.value)


def test_a_key_is_read_as_it_was_written() -> None:
    key, kept = create_key("ada", KeyRole.OPERATOR)

    assert parse_key(f" {kept}\n") == kept
    assert key not in str(kept)
    assert KeyRing([str(kept)], None).find(key) == kept.caller


def test_a_key_has_a_name() -> None:
    with pytest.raises(InvalidInput, match="a b"):
        create_key("a b", KeyRole.VIEWER)


def test_a_file_of_keys_must_be_there_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        KeyRing([], tmp_path / "keys")
    (tmp_path / "keys").write_text("\nada:viewer:what")
    with pytest.raises(ConfigError, match="line 2: .*SHA-256"):
        KeyRing([], tmp_path / "keys")


# ---- without keys ----------------------------------------------------------------------------------------------------


async def test_on_loopback_no_key_is_needed_and_the_audit_says_local(mongo_url: str, database: str) -> None:
    async with serving(mongo_url, database, api_keys=()) as api:
        answer = await api.stranger.post("/admin/tasks/api.echo")
        audit = (await api.stranger.get("/admin/audit")).json()

    assert answer.status_code == 201
    assert [entry["who"] for entry in audit["entries"]] == ["local"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
async def test_beyond_loopback_there_must_be_keys(mongo_url: str, database: str, host: str) -> None:
    with pytest.raises(ConfigError, match="verger keys create"):
        async with serving(mongo_url, database, api_keys=(), api_host=host):
            pass


async def test_beyond_loopback_a_file_without_keys_is_not_enough(mongo_url: str, database: str, tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    with pytest.raises(ConfigError, match="verger keys create"):
        async with serving(mongo_url, database, api_keys=(), api_keys_file=tmp_path / "keys", api_host="0.0.0.0"):
            pass


# ---- hosts and origins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{port}", 200),
        ("10.1.2.3", 200),
        ("verger.example.org", 200),
        ("evil.example.org", 421),
        ("localhost.evil.example.org:{port}", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("", 421),
    ],
)
async def test_a_name_that_is_not_ours_is_refused(mongo_url: str, database: str, host: str, status: int) -> None:
    async with serving(mongo_url, database, api_hosts=("verger.example.org",)) as api:
        port = api.url.rpartition(":")[2]
        answer = await api.viewer.get("/admin/tasks", headers={"Host": host.format(port=port)})

    assert answer.status_code == status
    assert status == 200 or "VERGER_API_HOSTS" in answer.json()["detail"]


async def test_a_page_of_another_site_is_refused(mongo_url: str, database: str) -> None:
    async with serving(mongo_url, database, api_keys=()) as api:
        others = ("https://evil.example.org", "null", "http://127.0.0.1:1", f"{api.url}.evil.example.org", "http://[")
        for origin in others:
            answer = await api.stranger.post("/admin/tasks/api.echo", headers={"Origin": origin})
            assert answer.status_code == 403, origin
            assert "access-control-allow-origin" not in answer.headers
        assert (await api.stranger.post("/admin/tasks/api.echo", headers={"Origin": api.url})).status_code == 201
        assert len((await api.store.tasks.counts())["api.echo"]) == 1


# ---- attempts --------------------------------------------------------------------------------------------------------


async def test_too_many_wrong_keys_have_to_wait_and_a_good_one_has_not(api: Api) -> None:
    statuses = [(await api.stranger.get("/admin/tasks")).status_code for _ in range(MOST + 3)]
    refused = await api.stranger.get("/admin/tasks")

    assert statuses == [401] * MOST + [429] * 3
    assert 0 < int(refused.headers["retry-after"]) <= AGAIN_SECONDS
    assert refused.headers["content-type"] == "application/problem+json"
    assert (await api.viewer.get("/admin/tasks")).status_code == 200


def test_addresses_are_counted_apart_and_the_oldest_is_forgotten() -> None:
    attempts = Attempts()
    for _ in range(MOST):
        assert attempts.fail("first") is None
    assert attempts.fail("first") is not None

    for number in range(MOST_ADDRESSES):
        assert attempts.fail(f"other {number}") is None

    assert attempts.fail("first") is None


def test_who_waits_may_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("actors.api.attempts.time.monotonic", lambda: now)
    attempts = Attempts()
    while (wait := attempts.fail("somebody")) is None:
        pass

    assert wait == pytest.approx(AGAIN_SECONDS)
    now += wait / 2
    assert attempts.fail("somebody") == pytest.approx(AGAIN_SECONDS / 2)
    now += wait / 2
    assert attempts.fail("somebody") is None
    assert attempts.fail("somebody") is not None
