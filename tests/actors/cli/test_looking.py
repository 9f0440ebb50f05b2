"""Workers, queues, keys and the audit on the command line; and the admin API of ``verger dev``."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.access_keys import KeyRing
from tests.actors.cli.conftest import good, spawn, until, verger


@pytest.fixture(scope="module")
def address(running_instance: Path) -> str:
    """Of the admin API, as ``verger dev`` printed it."""
    found = re.search(r"admin API +(http://\S+)", (running_instance.parent / "output").read_text())
    assert found is not None
    return found[1]


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20, trust_env=False) as client:
        yield client


def test_dev_serves_the_admin_api_to_its_machine(instance: Path, http: httpx.Client) -> None:
    answer = http.post("/admin/tasks/cli.echo", json={"times": 2})

    assert answer.status_code == 201
    until(lambda: "completed" in good("tasks", "show", answer.json()["task"]["id"]).out, "the task to end")


def test_workers_are_listed(instance: Path) -> None:
    [worker] = good("workers", "--json").json["workers"]

    assert "cli.echo" in worker["taskTypes"]
    assert worker["id"] in good("workers").out


def test_queues_inside_another_process_are_not_reached(instance: Path) -> None:
    answer = verger("queues")

    assert answer.code == 3
    assert "/admin/queues" in answer.err


def test_the_audit_tells_who_did_what(instance: Path, http: httpx.Client) -> None:
    http.post("/admin/tasks/cli.echo", params={"id": "audited"})

    entries = good("audit", "--json", "--limit", "1").json["entries"]
    assert [(entry["who"], entry["action"], entry["target"]) for entry in entries] == [
        ("local", "task.trigger", "audited")
    ]
    said = good("audit", "--limit", "1")
    assert "task.trigger" in said.out
    http.post("/admin/tasks/cli.echo", params={"id": "audited"})
    assert "--cursor" in good("audit", "--limit", "1").err


def test_a_finished_task_is_not_cancelled(instance: Path) -> None:
    task_id = good("enqueue", "cli.echo", "--wait", "--json").json["task"]["id"]

    answer = verger("tasks", "cancel", task_id)

    assert answer.code == 1
    assert "completed already" in answer.err


def test_tasks_are_found_by_what_went_wrong_and_when(instance: Path) -> None:
    task_id = verger("enqueue", "cli.fails", '{"why": "the disk is full"}', "--wait", "--json").json["task"]["id"]

    def found(*options: str) -> list[str]:
        return [task["id"] for task in good("tasks", "list", "--json", *options).json["tasks"]]

    assert found("--error", "DISK is") == [task_id]
    assert found("--error", "disk is", "--finished-from", "2020-01-01") == [task_id]
    assert found("--error", "disk is", "--created-to", "2020-01-01") == []
    assert found("--tenant", "nobody") == []
    wrong = verger("tasks", "list", "--created-from", "soon")
    assert (wrong.code, "--created-from" in wrong.err) == (1, True)


def test_a_key_is_shown_once_with_its_line(tmp_path: Path) -> None:
    said = good("keys", "create", "ada", "--role", "operator")
    key, line = said.out.splitlines()[0].split()[1], said.out.splitlines()[1].split()[1]

    caller = KeyRing([line], None).find(key)
    assert caller is not None
    assert (caller.name, caller.role.value) == ("ada", "operator")
    assert "VERGER_API_KEYS_FILE" in said.err
    other = good("keys", "create", "ada", "--json").json
    assert other["key"] != key
    assert other["role"] == "viewer"


def test_a_name_that_is_none_is_refused() -> None:
    assert verger("keys", "create", "a b").code == 1
    assert verger("keys", "create", "ada", "--role", "chief").code == 2


def test_the_settings_show_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    line = good("keys", "create", "ada", "--json").json["line"]
    monkeypatch.setenv("VERGER_API_KEYS", line)

    said = good("settings").out

    assert "ada:viewer:***" in said
    assert line not in said


def test_several_processes_do_not_listen_on_one_port() -> None:
    answer = verger("run", "--roles", "api,worker", "--processes", "2")

    assert answer.code == 2
    assert "one port" in answer.err


def test_an_api_beyond_loopback_without_keys_does_not_start(tmp_path: Path) -> None:
    process = spawn("run", VERGER_API_HOST="0.0.0.0", VERGER_DATA_DIR=str(tmp_path), VERGER_ACTORS="actors.sessions")
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 4
    assert "verger keys create" in said
