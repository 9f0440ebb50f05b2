"""What holds for the command line as a whole, and the commands that need no server."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import typer

from actors.cli import main
from actors.cli.app import app
from actors.cli.failure import report
from actors.cli.settings import page
from service.errors import (
    BrokerUnavailable,
    ConfigError,
    Conflict,
    InvalidInput,
    NotFound,
    StoreUnavailable,
    VergerError,
)
from service.version import VERSION
from tests.actors.cli.conftest import ROOT, good, verger


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    found: Mapping[str, Any] = group.commands
    for name, command in found.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ALL = list(commands(typer.main.get_command(app)))


def test_the_version_is_told() -> None:
    assert good("--version").out == f"verger {VERSION}\n"


def test_every_command_explains_itself() -> None:
    assert ("schedules", "explain") in ALL
    for command in ALL:
        answer = good(*command, "--help")
        assert f"verger {' '.join(command)}" in answer.out.replace("root ", "verger ", 1)


def test_every_command_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()

    missing = [" ".join(command) for command in ALL if f"verger {' '.join(command)}" not in reference]

    assert not missing


def test_a_mistyped_command_ends_with_2_and_a_suggestion() -> None:
    answer = verger("shedules")

    assert answer.code == 2
    assert "Did you mean 'schedules'?" in answer.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("there is no task 'x'"), 1),
        (Conflict("changed meanwhile"), 1),
        (InvalidInput("delay", "soon", "is not a duration"), 1),
        (StoreUnavailable("MongoDB does not answer"), 3),
        (BrokerUnavailable("RabbitMQ does not answer"), 3),
        (ConfigError("VERGER_TYPES names 'x'"), 4),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    error: VergerError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error) == code
    assert capsys.readouterr() == ("", f"verger: {error}\n")


def test_a_traceback_is_shown_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(**_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("actors.cli.app.app", crash)
    with pytest.raises(SystemExit) as quiet:
        main()
    said = capsys.readouterr().err
    monkeypatch.setenv("VERGER_LOG_LEVEL", "debug")
    with pytest.raises(SystemExit):
        main()

    assert quiet.value.code == 1
    assert said == "verger: unexpected RuntimeError: a bug (VERGER_LOG_LEVEL=debug shows where)\n"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("actors",), ("tasks", "list"), ("schema",), ("settings",), ("run",), ("dev",)])
def test_wrong_settings_end_with_4_and_name_the_variable(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERGER_KEEP_COMPLETED", "-1")

    answer = verger(*command)

    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith("verger: VERGER_KEEP_COMPLETED: ")


def test_without_an_instance_the_way_to_one_is_told() -> None:
    answer = verger("tasks", "list", "--json")

    assert (answer.code, answer.out) == (4, "")
    assert "start one with `verger dev`" in answer.err


def test_a_store_that_is_away_ends_with_3_and_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "VERGER_MONGODB_URL", "mongodb://ada:hidden@127.0.0.1:1/?replicaSet=x&serverSelectionTimeoutMS=100"
    )

    answer = verger("schedules", "list")

    assert (answer.code, answer.out) == (3, "")
    assert "hidden" not in answer.err
    assert "mongodb://ada:***@127.0.0.1:1/" in answer.err


def test_a_calculation_loads_no_driver() -> None:
    arguments = ("schedules", "explain", "--schedule", "@daily", "--json")
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "actors.cli", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stderr

    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in loaded.splitlines()}
    assert "cronsim" in modules
    assert not modules & {"pymongo", "motor", "aio_pika", "pydantic_settings", "structlog", "rich"}


# ---- commands that need no server


def test_the_loaded_task_types_are_listed() -> None:
    for_people, for_machines = good("actors"), good("--json", "actors")

    (line,) = (line for line in for_people.out.splitlines() if line.startswith("cli.echo "))
    assert line.split() == ["cli.echo", "say_it_again", "7", "8", "1m30s", "Answer", "with", "what", "was", "sent."]
    slow = for_machines.json["actors"][2]
    assert (slow["taskType"], slow["maxAttempts"], slow["concurrency"]) == ("cli.slow", None, None)


def test_a_module_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERGER_ACTORS", "nowhere.jobs")

    answer = verger("actors")

    assert answer.code == 4
    assert "VERGER_ACTORS names 'nowhere.jobs', which cannot be imported" in answer.err


def test_the_schema_of_a_type_describes_its_body() -> None:
    schema = good("schema", "say it again").json

    assert schema["properties"]["times"]["minimum"] == 1
    assert schema["title"] == "cli.echo"


def test_the_whole_schema_holds_message_types_event_and_file() -> None:
    schema = good("schema").json

    assert set(schema) == {"message", "taskTypes", "events", "schedulesFile"}
    assert "taskBody" in schema["message"]["properties"]
    assert set(schema["taskTypes"]) == {"cli.echo", "cli.fails", "cli.slow"}
    assert schema["taskTypes"]["cli.fails"] == {"title": "cli.fails", "type": "object"}
    assert schema["events"]["task.completed"]["properties"]["detail"]["required"] == ["attempt", "durationMs", "reason"]
    entry = schema["schedulesFile"]["$defs"]["ScheduleEntry"]
    assert {"id", "task_type", "schedule", "args", "enabled"} <= set(entry["properties"])


def test_the_schema_of_an_unknown_type_is_refused() -> None:
    answer = verger("schema", "cli.nothing")

    assert answer.code == 1
    assert "no handler for task type 'cli.nothing'; known: " in answer.err


def test_settings_are_shown_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERGER_AMQP_URL", "amqp://ada:hidden@host:5672/")
    monkeypatch.setenv("VERGER_RETENTION", "PT49H30M")

    for_people, for_machines = good("settings").out, good("settings", "--json").json["settings"]

    assert "hidden" not in for_people + str(for_machines)
    values = {setting["name"]: (setting["value"], setting["set"]) for setting in for_machines}
    assert values["VERGER_AMQP_URL"] == ("amqp://ada:***@host:5672/", True)
    assert values["VERGER_RETENTION"] == ("2d1h30m", True)
    assert values["VERGER_PREFIX"] == ("verger", False)


def test_the_page_about_the_settings_is_up_to_date() -> None:
    kept = (ROOT / "docs" / "configuration.md").read_text()

    assert kept == page(), "run: verger settings --markdown > docs/configuration.md"
    assert good("settings", "--markdown").out == page()


def test_a_wrong_role_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERGER_ROLES", "worker,wroker")

    answer = verger("run")

    assert answer.code == 4
    assert "VERGER_ROLES: Input should be 'scheduler', 'worker' or 'api' (it is 'wroker')" in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--roles", "wroker"), "'wroker' is no role; there are: "),
        (("--roles", ","), "no role"),
        (("--processes", "0"), "greater than or equal to 1 "),
        (("--processes", "257"), "less than or equal to 256 "),
    ],
)
def test_wrong_options_of_run_end_with_2_and_what_may_be_given(arguments: tuple[str, ...], said: str) -> None:
    answer = verger("run", *arguments)

    assert answer.code == 2
    assert said in answer.err
