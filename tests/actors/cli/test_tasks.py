"""``verger enqueue`` and ``verger tasks``."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.actors.cli.conftest import HANDLERS, good, spawn, until, verger

pytestmark = pytest.mark.usefixtures("instance")


def task(task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = good("tasks", "show", task_id, "--json").json
    return found


# ---- enqueue


def test_a_task_is_enqueued_and_waited_for() -> None:
    answer = good("enqueue", "say it again", '{"text": "ab", "times": 2}', "--id", "wait-1", "--wait")

    assert "wait-1 enqueued\n" in answer.out
    assert "wait-1 completed in " in answer.out
    assert answer.out.endswith('{"text": "abab"}\n')


def test_a_body_comes_from_a_file_or_stdin(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"text": "filed"}')

    filed = good("enqueue", "cli.echo", "--body-file", str(tmp_path / "body.json"), "--json")
    piped = good("enqueue", "cli.echo", "--body-file", "-", "--json", given='{"text": "piped"}')

    assert filed.json["task"]["taskBody"] == {"text": "filed"}
    assert piped.json["task"]["taskBody"] == {"text": "piped"}


def test_every_option_arrives_in_the_task() -> None:
    options = (
        "--id",
        "full-1",
        "--name",
        "only",
        "--delay",
        "1h",
        "--max-attempts",
        "3",
        "--timeout",
        "10m",
        "--tenant",
        "t",
    )

    answer = good("enqueue", "cli.echo", *options, "--json")

    made = answer.json["task"]
    assert answer.json["created"] is True
    assert (made["id"], made["taskName"], made["maxAttempts"]) == ("full-1", "only", 3)
    assert (made["timeoutSeconds"], made["tenantId"], made["status"]) == (600, "t", "pending")
    dated = good("enqueue", "cli.echo", "--at", "2100-01-01", "--json").json["task"]
    assert dated["retryAt"].startswith("2100-01-01T00:00:00")


def test_what_is_known_or_lives_is_not_enqueued_twice() -> None:
    good("enqueue", "cli.echo", "--id", "twice-1", "--name", "twice", "--delay", "1h")

    by_id = good("enqueue", "cli.echo", "--id", "twice-1")
    by_name = good("enqueue", "cli.echo", "--name", "twice", "--json")

    assert by_id.out == "twice-1 known already (pending), nothing was enqueued\n"
    assert (by_name.json["created"], by_name.json["task"]["id"]) == (False, "twice-1")
    body = '{"text": "unique one"}'
    first = good("enqueue", "cli.echo", body, "--unique", "--delay", "1h", "--json").json["task"]["id"]
    assert good("enqueue", "cli.echo", body, "--unique").out == (
        f"{first} waiting under this name or body, nothing was enqueued\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cli.eco",), "no handler for task type 'cli.eco'; known: cli.echo, cli.fails, cli.slow"),
        (("cli.echo", "{text}"), "BODY: '{text}' is no JSON"),
        (("cli.echo", "[1]"), "BODY: '[1]' is not a JSON object"),
        (
            ("cli.echo", '{"times": 0}'),
            "taskBody.times: '0' input should be greater than or equal to 1; see verger schema",
        ),
        (("cli.echo", "--body-file", "/nowhere"), "--body-file: '/nowhere' cannot be read: No such file"),
        (("cli.echo", "--delay", "soon"), "delay: 'soon' 'soon' is not a duration"),
        (("cli.echo", "--at", "soon"), "--at: 'soon' is no instant"),
        (("cli.echo", "--timeout", "0s"), "timeout: '0s' is not positive"),
        (("cli.echo", "--id", "fire:x"), "id: 'fire:x' starts with a reserved word"),
        (("cli.echo", "--wait", "--wait-timeout", "long"), "--wait-timeout: 'long'"),
    ],
)
def test_a_wrong_value_is_named(arguments: tuple[str, ...], said: str) -> None:
    answer = verger("enqueue", *arguments)

    assert answer.code == 1
    assert said in answer.err


@pytest.mark.parametrize("arguments", [(), ("cli.echo", "{}", "--body-file", "x"), ("cli.echo", "--max-attempts", "0")])
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert verger("enqueue", *arguments).code == 2


def test_an_unknown_type_is_taken_where_it_is_allowed() -> None:
    answer = good("enqueue", "cli.unknown", "--allow-unknown", "--delay", "1h", "--json")

    assert answer.json["task"]["taskType"] == "cli.unknown"


def test_a_wait_ends_with_1_when_the_task_failed_or_takes_too_long() -> None:
    failed = verger("enqueue", "cli.fails", '{"why": "no\\u001b[31mluck"}', "--id", "bad-1", "--wait")
    late = verger(
        "enqueue", "cli.echo", "--id", "late-1", "--delay", "1h", "--wait", "--wait-timeout", "100ms", "--json"
    )

    assert (failed.code, failed.err) == (1, "verger: task bad-1 ended failed: RuntimeError: no\\x1b[31mluck\n")
    assert (late.code, late.json["task"]["status"]) == (1, "pending")
    assert late.err == "verger: task late-1 is still pending; verger tasks show late-1 tells more\n"


def test_ctrl_c_while_waiting_is_quiet(instance: Path) -> None:
    where = {"VERGER_DATA_DIR": str(instance), "VERGER_ACTORS": HANDLERS}
    command = spawn("enqueue", "cli.echo", "--id", "quiet-1", "--delay", "1h", "--wait", **where)
    until(lambda: verger("tasks", "show", "quiet-1").code == 0, "the task to be stored")

    command.send_signal(signal.SIGINT)

    out, err = command.communicate(timeout=10)
    assert (command.returncode, out, err) == (130, "quiet-1 enqueued\n", "")


# ---- tasks


def test_tasks_are_listed_newest_first_page_by_page() -> None:
    for number in range(3):
        good("enqueue", "cli.echo", "--id", f"page-{number}", "--delay", "1h")

    first = good("tasks", "list", "--limit", "2", "--json").json
    second = good("tasks", "list", "--limit", "1", "--cursor", first["cursor"], "--json").json

    assert [each["id"] for each in (*first["tasks"], *second["tasks"])] == ["page-2", "page-1", "page-0"]
    for_people = good("tasks", "list", "--limit", "1")
    assert "page-2" in for_people.out
    assert "due in 59m" in for_people.out
    assert "There are more: --cursor " in for_people.err


def test_tasks_are_filtered_by_state_and_type() -> None:
    good("enqueue", "cli.echo", "--id", "filter-1", "--wait")

    found = good("tasks", "list", "--status", "completed", "--type", "Say It Again", "--json").json["tasks"]
    none = good("tasks", "list", "--type", "cli.nothing")

    assert "filter-1" in [each["id"] for each in found]
    assert {each["status"] for each in found} == {"completed"}
    assert none.out == "There are no such tasks.\n"


def test_a_task_is_shown_with_all_that_is_known() -> None:
    verger("enqueue", "cli.fails", '{"why": "bad luck"}', "--id", "show-1", "--tenant", "ada", "--wait")

    shown = good("tasks", "show", "show-1").out

    for line in (
        "status      failed",
        "tenant      ada",
        'body        {"why": "bad luck"}',
        "error       RuntimeError: bad luck",
    ):
        assert line in shown
    assert "ago)" in shown
    assert "raise RuntimeError" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "nowhere"), 1, "verger: there is no task 'nowhere'"),
        (("cancel", "nowhere"), 1, "verger: there is no task 'nowhere'"),
        (("retry", "nowhere"), 1, "verger: there is no task 'nowhere'"),
        (("list", "--cursor", "???"), 1, "cursor: '???'"),
        (("list", "--status", "lost"), 2, "'lost' is not one of"),
        (("list", "--limit", "0"), 2, "--limit"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], code: int, said: str) -> None:
    answer = verger("tasks", *arguments)

    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


def test_a_pending_task_is_cancelled_at_once() -> None:
    good("enqueue", "cli.echo", "--id", "cancel-1", "--delay", "1h")

    answer = good("tasks", "cancel", "cancel-1", "--reason", "changed my mind")

    assert answer.out == "cancel-1 is cancelled\n"
    assert task("cancel-1")["reason"] == "changed my mind"


def test_a_running_task_stops_when_it_is_asked_to() -> None:
    good("enqueue", "cli.slow", "--id", "slow-1")
    until(lambda: task("slow-1")["progress"] is not None, "progress", 15)
    listed = good("tasks", "list", "--status", "running")

    answer = good("tasks", "cancel", "slow-1")

    assert "of 10000, rows" in listed.out
    assert answer.out == "slow-1 is running, asked to stop\n"
    until(lambda: task("slow-1")["status"] == "cancelled", "the end", 15)


def test_dead_letters_are_replayed_one_by_one_whatever_happens_to_one() -> None:
    verger("enqueue", "cli.fails", "--id", "dead-1", "--wait")
    until(lambda: verger("tasks", "retry", "dead-1").code == 0, "the dead letter to be published", 15)
    until(lambda: task("dead-1")["status"] == "failed" and task("dead-1")["relayAt"] is None, "its second end", 15)

    answer = verger("tasks", "retry", "nowhere", "dead-1", "--json")

    assert answer.code == 1
    assert [each["id"] for each in answer.json["tasks"]] == ["dead-1"]
    assert answer.err == "verger: there is no task 'nowhere'\n"
