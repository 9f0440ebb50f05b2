"""``verger dev``, ``verger run`` and ``verger doctor``, as processes and on real servers."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.child_process import free_port
from tests.actors.cli.conftest import HANDLERS, ROOT, Answer, good, spawn, verger

Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that end with the test."""
    started: list[Process] = []

    def begin(*arguments: str, **environment: str) -> Process:
        started.append(spawn(*arguments, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def answer_of(process: Process) -> Answer:
    """What a command said that ran as a process of its own."""
    out, err = process.communicate(timeout=60)
    return Answer(process.returncode, out, err)


def read_until(process: Process, text: str) -> str:
    """Its stderr up to a line that holds ``text``."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} never came; exit code {process.wait()}:\n{said}")


# ---- dev


def test_dev_collects_sessions_by_the_schedules_it_was_given(start: Start, tmp_path: Path) -> None:
    entry = {"id": "collect", "task_type": "collect_all", "schedule": "@every 1s"}
    (tmp_path / "schedules.json").write_text(json.dumps({"schedules": [entry]}))
    where = {"VERGER_DATA_DIR": str(tmp_path / "data"), "VERGER_ACTORS": "actors.sessions"}
    sessions = str(ROOT / "examples" / "sessions")

    dev = start("dev", "--schedules", str(tmp_path / "schedules.json"), "--sessions", sessions, **where)

    banner = read_until(dev, "Ctrl-C ends it")
    assert "scheduler, worker in one process" in banner
    assert "schedules.json (1 new)" in banner
    assert f"export VERGER_DATA_DIR={tmp_path / 'data'}" in banner
    finished = read_until(dev, "task.finished")
    assert "inserted=0" not in finished.splitlines()[-1]
    dev.send_signal(signal.SIGINT)
    out, err = dev.communicate(timeout=30)
    assert (dev.returncode, out) == (0, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--schedules", "/nowhere.json"), "FILE: '/nowhere.json' cannot be read"),
        (("--sessions", "/nowhere"), "--sessions: '/nowhere' is no folder"),
    ],
)
def test_dev_refuses_what_is_not_there_before_it_starts_anything(arguments: tuple[str, ...], said: str) -> None:
    answer = verger("dev", *arguments)

    assert answer.code == 1
    assert said in answer.err


def test_dev_refuses_a_wrong_schedule_before_it_starts_anything(tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text('{"schedules": [{"id": "a", "task_type": "nothing", "schedule": "@daily"}]}')

    answer = verger("dev", "--schedules", str(tmp_path / "wrong.json"))

    assert answer.code == 1
    assert "schedules[0].task_type: 'nothing' is no known task type" in answer.err
    assert not (tmp_path / "data").exists()


def test_a_second_dev_on_the_same_folder_is_refused(instance: Path, start: Start) -> None:
    second = start("dev", VERGER_DATA_DIR=str(instance), VERGER_ACTORS=HANDLERS)

    _, err = second.communicate(timeout=30)
    assert second.returncode == 4
    assert "another `verger dev`" in err
    assert "Traceback" not in err


# ---- real servers


@pytest.fixture
def real_servers(mongo_url: str, amqp_url: str, database: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this test talk to real servers."""
    values = {"MONGODB_URL": mongo_url, "AMQP_URL": amqp_url, "DATABASE": database, "PREFIX": prefix}
    for name, value in values.items():
        monkeypatch.setenv(f"VERGER_{name}", value)


@pytest.mark.usefixtures("real_servers")
def test_roles_run_until_sigterm_and_take_what_the_command_line_publishes(start: Start) -> None:
    run = start("run", "--roles", "worker")
    read_until(run, "verger.started")

    answer = answer_of(start("enqueue", "cli.echo", '{"text": "published"}', "--wait", "--json"))

    assert (answer.code, answer.err) == (0, "")
    assert answer.json["task"]["result"] == {"text": "published"}
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 0


@pytest.mark.usefixtures("real_servers")
def test_with_the_broker_down_a_task_is_stored_all_the_same(start: Start) -> None:
    away = f"amqp://guest:hidden@127.0.0.1:{free_port()}/"

    answer = answer_of(start("enqueue", "cli.echo", "--json", VERGER_AMQP_URL=away))

    assert (answer.code, answer.json["created"]) == (0, True)
    assert "broker.unavailable" in answer.err
    assert "hidden" not in answer.err
    assert good("tasks", "list", "--json").json["tasks"][0]["id"] == answer.json["task"]["id"]


@pytest.mark.usefixtures("real_servers")
def test_doctor_finds_real_servers_in_order(start: Start) -> None:
    answer = answer_of(start("doctor", "--json"))

    assert (answer.code, answer.err) == (0, "")
    found = {check["name"]: check for check in answer.json["checks"]}
    assert answer.json["ok"]
    assert found["store"]["detail"].startswith("MongoDB ")
    assert found["replicas"]["detail"].startswith("replica set verger; ")
    assert found["broker"]["detail"].startswith("RabbitMQ 3.") or found["broker"]["detail"].startswith("RabbitMQ 4.")
    assert found["workers"]["status"] == "warn"
    assert "guest:guest" not in answer.out


# ---- several processes

AWAY = {
    "VERGER_MONGODB_URL": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100",
    "VERGER_AMQP_URL": "amqp://127.0.0.1:1/",
}
"""Servers that a child waits for."""


def line_of(process: Process, event: str) -> dict[str, Any]:
    """Its next log line of this event."""
    found: dict[str, Any] = json.loads(read_until(process, f'"{event}"').splitlines()[-1])
    return found


def test_ctrl_c_reaches_the_children_through_the_parent_alone(start: Start) -> None:
    run = start("run", "--processes", "2", **AWAY)
    children = [line_of(run, "process.started")["pid"] for _ in range(2)]

    assert {os.getpgid(child) for child in children} == set(children)
    run.send_signal(signal.SIGINT)

    assert line_of(run, "processes.stopping")["signal"] == "SIGINT"
    answer = answer_of(run)
    assert (answer.code, answer.out) == (0, "")
    assert "process.died" not in answer.err
    assert "Traceback" not in answer.err


def test_a_child_that_keeps_dying_is_started_after_longer_and_longer_pauses(start: Start) -> None:
    run = start("run", "--processes", "2", **AWAY)
    started = line_of(run, "process.started")
    line_of(run, "process.started")
    pauses = []
    for restarts in (1, 2, 3):
        os.kill(started["pid"], signal.SIGKILL)
        died = line_of(run, "process.died")
        assert (died["pid"], died["signal"], died["restarts"]) == (started["pid"], "SIGKILL", restarts)
        pauses.append(died["restart_in_seconds"])
        started = line_of(run, "process.started")
        assert started["restarts"] == restarts

    assert pauses == [0.2, 0.4, 0.8]
    run.send_signal(signal.SIGTERM)
    assert answer_of(run).code == 0


def test_a_configuration_that_no_child_can_start_with_ends_them_all_with_its_code(start: Start) -> None:
    answer = answer_of(start("run", "--processes", "2", VERGER_ACTORS="nowhere.jobs", **AWAY))

    assert (answer.code, answer.out) == (4, "")
    assert "verger: VERGER_ACTORS names 'nowhere.jobs', which cannot be imported" in answer.err
    assert answer.err.count('"process.started"') == 2


def test_a_configuration_that_breaks_later_ends_them_all_when_a_child_is_started_again(
    start: Start, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs_of_later.py"
    jobs.write_text(f"from {HANDLERS} import *")
    run = start("run", "--processes", "2", VERGER_ACTORS="jobs_of_later", PYTHONPATH=str(tmp_path), **AWAY)
    children = [line_of(run, "process.started")["pid"] for _ in range(2)]
    line_of(run, "server.unavailable")

    jobs.write_text("raise RuntimeError('broken')")
    os.kill(children[0], signal.SIGKILL)

    answer = answer_of(run)
    assert answer.code == 4
    assert "RuntimeError('broken')" in answer.err


@pytest.mark.parametrize("known", [("MONGODB_URL",), ("AMQP_URL",), ()])
def test_several_processes_need_servers_that_they_share(
    known: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in known:
        monkeypatch.setenv(f"VERGER_{name}", AWAY[f"VERGER_{name}"])

    answer = verger("run", "--processes", "2")

    assert (answer.code, answer.out) == (4, "")
    assert "--processes needs servers that the processes share" in answer.err


# ---- doctor


def test_doctor_looks_at_the_running_instance(instance: Path) -> None:
    answer = good("doctor")

    lines = [line.split() for line in answer.out.splitlines()]
    assert {line[0] for line in lines} == {"ok"}
    assert [line[1] for line in lines] == [
        *("settings", "actors", "data", "disk", "mongod", "instance", "store", "replicas", "clock", "workers", "broker")
    ]
    assert f"runs on {instance}" in answer.out


def test_doctor_says_what_to_do_where_something_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VERGER_MONGOD", str(tmp_path / "none"))
    monkeypatch.setenv("VERGER_ACTORS", "nowhere.jobs")

    answer = verger("doctor")

    assert answer.code == 1
    assert "fail  actors     VERGER_ACTORS names 'nowhere.jobs'" in answer.out
    assert "fail  mongod     VERGER_MONGOD is" in answer.out
    assert "warn  instance   none runs on" in answer.out
    assert "→ start one: verger dev, or make run" in answer.out


def test_doctor_names_servers_that_are_away_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("VERGER_MONGODB_URL", f"mongodb://ada:hidden@127.0.0.1:{port}/?serverSelectionTimeoutMS=100")
    monkeypatch.setenv("VERGER_AMQP_URL", f"amqp://ada:hidden@127.0.0.1:{port}/")

    answer = verger("doctor")

    assert answer.code == 1
    assert "fail  store" in answer.out
    assert "→ start it, or correct VERGER_MONGODB_URL" in answer.out
    assert "fail  broker" in answer.out
    assert "→ start it, or correct VERGER_AMQP_URL" in answer.out
    assert "hidden" not in answer.out + answer.err


def test_doctor_names_a_wrong_setting_and_a_folder_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VERGER_DATA_DIR", str(tmp_path / "file"))
    assert "fail  data" in verger("doctor").out

    monkeypatch.setenv("VERGER_LOG_LEVEL", "loud")
    wrong = verger("doctor", "--json")

    assert (wrong.code, wrong.json["ok"]) == (1, False)
    assert wrong.json["checks"][0]["detail"].startswith("VERGER_LOG_LEVEL: ")


def test_doctor_warns_of_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100 * 1024**2})
    monkeypatch.setattr("actors.cli.checks.shutil.disk_usage", lambda path: usage)

    answer = verger("doctor")

    assert answer.code == 1
    assert "fail  disk       0.1 GiB free" in answer.out
