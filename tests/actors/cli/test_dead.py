"""``verger dead``, ``verger tasks why`` and ``verger tasks watch``."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.child_process import ending_with_parent
from tests.actors.cli.conftest import HANDLERS, ROOT, good, spawn, until, verger

pytestmark = pytest.mark.usefixtures("instance")


def task(task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = good("tasks", "show", task_id, "--json").json
    return found


def died(*ids: str) -> None:
    """Dead letters, which are on their exchange."""
    for task_id in ids:
        good("enqueue", "cli.fails", '{"why": "bad luck"}', "--id", task_id)
    until(lambda: all(_dead(task(task_id)) for task_id in ids), "the dead letters", 20)


def _dead(found: dict[str, Any]) -> bool:
    return found["status"] == "failed" and found["relayAt"] is None


def test_dead_letters_are_listed_shown_and_grouped() -> None:
    died("grave-1", "grave-2")

    listed = good("dead", "list", "--type", "cli.fails")
    told = good("dead", "groups", "--json").json
    shown = good("dead", "show", "grave-1").out

    assert "grave-2" in listed.out
    assert "RuntimeError: bad luck" in listed.out
    [group] = [each for each in told["groups"] if each["taskType"] == "cli.fails"]
    assert (group["errorType"], group["place"]) == ("RuntimeError", "handlers.py:fails")
    assert group["count"] >= 2
    assert group["fingerprint"] in good("dead", "groups").out
    by_kind = good("dead", "list", "--fingerprint", group["fingerprint"], "--limit", "1", "--json").json
    assert [each["id"] for each in by_kind["deadLetters"]] == ["grave-2"]
    assert by_kind["cursor"] is not None
    assert "It can be replayed." in shown
    assert "→ When the cause is gone: verger tasks retry grave-1" in shown


def test_some_are_replayed_and_what_cannot_be_is_named() -> None:
    died("again-1", "again-2")

    answer = verger("dead", "replay", "again-1", "again-2", "nowhere", "--rate", "100")

    assert "2 of 3 replayed\n" in answer.out
    assert (answer.code, answer.err) == (1, "verger: nowhere: there is no such task\n")
    until(lambda: len(task("again-2")["history"]) == 3, "its second end", 20)
    assert "on the command line" in task("again-2")["history"][1]["reason"]


def test_a_canary_that_fails_again_ends_with_1() -> None:
    died("canary-1", "canary-2", "canary-3")

    answer = verger("dead", "replay", "canary-1", "canary-2", "canary-3", "--first", "1")

    assert answer.code == 1
    assert "1 of 3 replayed" in answer.out
    assert answer.err.endswith("verger: stopped: 1 of the first 1 failed again; the rest was left as it is\n")
    assert [len(task(f"canary-{number}")["history"]) for number in (1, 2, 3)].count(1) == 2


def test_one_is_replayed_with_another_body() -> None:
    died("edit-1")

    answer = good("dead", "replay", "edit-1", "--body", '{"why": "worse luck"}')

    assert answer.out == "edit-1 is pending with another body\n"
    until(lambda: _dead(task("edit-1")), "its second end", 20)
    assert task("edit-1")["lastError"]["message"] == "worse luck"


def test_a_dry_run_changes_nothing_and_a_discard_is_final() -> None:
    died("late-2")

    dry = good("dead", "discard", "late-2", "nowhere", "--reason", "too late", "--dry-run")
    still = task("late-2")["status"]
    gone = good("dead", "discard", "late-2", "--reason", "too late")
    again = verger("dead", "discard", "late-2", "--reason", "too late")

    assert "1 would be meant; nothing was changed." in dry.out
    assert "nowhere: there is no such task" in dry.err
    assert still == "failed"
    assert gone.out == "1 discarded\n"
    assert (task("late-2")["status"], task("late-2")["reason"]) == ("cancelled", "discarded")
    assert (again.code, again.err) == (1, "verger: late-2: is cancelled, no dead letter\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("replay",), 2, "give ids, a type or a fingerprint"),
        (("replay", "a", "--type", "b"), 2, "not both"),
        (("replay", "a", "b", "--body", "{}"), 2, "exactly one id"),
        (("replay", "a", "--rate", "0"), 2, "rate"),
        (("replay", "nowhere"), 1, "nowhere: there is no such task"),
        (("discard", "a"), 2, "--reason"),
        (("show", "nowhere"), 1, "there is no task 'nowhere'"),
        (("list", "--cursor", "???"), 1, "cursor: '???'"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], code: int, said: str) -> None:
    answer = verger("dead", *arguments)

    assert answer.code == code, answer
    assert said in answer.err


def test_why_tells_what_holds_a_task_up_and_explains_an_unknown_id() -> None:
    good("enqueue", "cli.echo", "--id", "early-1", "--delay", "1h")

    early = good("tasks", "why", "early-1")
    unknown = good("tasks", "why", "nowhere", "--json").json

    assert "It was stored as cli.echo." in early.out
    assert "It is early: it may not run until " in early.out
    assert (unknown["status"], unknown["now"][0]) == (None, "There is no such task.")


def test_watch_ends_when_the_tasks_have_ended(instance: Path) -> None:
    good("enqueue", "cli.slow", "--id", "watched-1")
    until(lambda: task("watched-1")["progress"] is not None, "progress", 15)
    where = {"VERGER_DATA_DIR": str(instance), "VERGER_ACTORS": HANDLERS}
    command = spawn("tasks", "watch", "watched-1", **where)
    assert command.stdout is not None
    first = command.stdout.readline()
    good("tasks", "cancel", "watched-1")

    out, err = command.communicate(timeout=20)

    assert first.startswith("watched-1 cli.slow running ")
    assert " of 10000, about " in first
    assert out.splitlines()[-1].startswith("watched-1 cli.slow cancelled")
    assert (command.returncode, err) == (1, "")
    assert verger("tasks", "watch", "nowhere").code == 1


def test_watch_draws_bars_in_a_terminal(instance: Path) -> None:
    good("enqueue", "cli.echo", "--id", "bar-1", "--wait")
    where = {"VERGER_DATA_DIR": str(instance), "VERGER_ACTORS": HANDLERS}

    shown = in_terminal("tasks", "watch", "bar-1", **where)

    assert "bar-1 cli.echo" in shown
    assert "━" in shown and "100%" in shown


def test_ctrl_c_leaves_a_replay_to_its_worker(instance: Path) -> None:
    died("slow-a", "slow-b", "slow-c")
    where = {"VERGER_DATA_DIR": str(instance), "VERGER_ACTORS": HANDLERS}
    command = spawn("dead", "replay", "slow-a", "slow-b", "slow-c", "--rate", "0.5", **where)
    assert command.stdout is not None
    line = command.stdout.readline()

    command.send_signal(signal.SIGINT)

    _, err = command.communicate(timeout=20)
    operation = line.split()[0]
    assert (command.returncode, f"verger tasks cancel {operation} stops it" in err) == (130, True), err
    until(lambda: task(operation)["status"] == "completed", "the replay", 30)


def test_events_of_an_embedded_instance_are_found_at_its_api() -> None:
    answer = verger("events", "tail")

    assert answer.code == 4
    assert "curl -N URL/admin/events" in answer.err


def in_terminal(*arguments: str, **environment: str) -> str:
    """What a command shows in a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ending_with_parent(sys.executable, "-W", "error", "-m", "actors.cli", *arguments),
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the terminal is gone with its last user
        pass
    os.close(ours)
    assert process.wait(20) == 0, shown
    return shown.decode()
