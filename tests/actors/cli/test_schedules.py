"""``verger schedules``: apply, list, show, pause, resume, run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.actors.cli.conftest import good, until, verger

pytestmark = pytest.mark.usefixtures("instance")
HOURLY = {"task_type": "Say It Again", "schedule": "@hourly", "args": {"text": "x"}, "enabled": True}


def written(folder: Path, *entries: dict[str, Any], name: str | None = None) -> str:
    """A schedules file; its name, which is its source, is the test's own."""
    path = folder / (name or f"{folder.name}.json")
    path.write_text(json.dumps({"schedules": list(entries)}))
    return str(path)


def mine(tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = good("schedules", "list", "--json", "--source", f"{tmp_path.name}.json").json[
        "schedules"
    ]
    return found


def test_a_file_is_applied_and_applying_it_again_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, {"id": "apply.one", **HOURLY})

    first, again = good("schedules", "apply", path), good("schedules", "apply", path)

    assert "+ apply.one  cli.echo  @hourly  next: 20" in first.out
    assert first.out.endswith("Applied.\n")
    assert again.out == "= 1 unchanged\nNothing to do.\n"
    (schedule,) = mine(tmp_path)
    assert (schedule["taskType"], schedule["taskBody"], schedule["nextFireAt"][-6:]) == (
        "cli.echo",
        {"text": "x"},
        "00:00Z",
    )


def test_a_dry_run_shows_the_plan_and_changes_nothing(tmp_path: Path) -> None:
    good("schedules", "apply", written(tmp_path, {"id": "dry.keep", **HOURLY}, {"id": "dry.go", **HOURLY}))
    path = written(tmp_path, {"id": "dry.keep", **HOURLY, "schedule": "@daily"}, {"id": "dry.new", **HOURLY})

    answer = good("schedules", "apply", path, "--prune", "--dry-run")

    assert "+ dry.new" in answer.out
    assert "~ dry.keep" in answer.out
    assert "    schedule: @hourly → @daily" in answer.out
    assert "- dry.go" in answer.out
    assert answer.out.endswith("Not applied: this was a dry run.\n")
    assert [schedule["id"] for schedule in mine(tmp_path)] == ["dry.go", "dry.keep"]


def test_prune_deletes_only_what_has_the_same_source(tmp_path: Path) -> None:
    good("schedules", "apply", written(tmp_path, {"id": "prune.go", **HOURLY}))
    good("schedules", "apply", written(tmp_path, {"id": "prune.other", **HOURLY}, name="other.json"))

    answer = good("schedules", "apply", written(tmp_path, {"id": "prune.new", **HOURLY}), "--prune", "--json")

    assert answer.json == {
        "create": ["prune.new"],
        "update": [],
        "delete": ["prune.go"],
        "unchanged": [],
        "source": f"{tmp_path.name}.json",
        "applied": True,
    }
    assert good("schedules", "show", "prune.other", "--json").json["source"] == "other.json"


def test_a_plan_for_machines_names_every_change(tmp_path: Path) -> None:
    good("schedules", "apply", written(tmp_path, {"id": "json.one", **HOURLY}))

    answer = good("schedules", "apply", written(tmp_path, {"id": "json.one", **HOURLY, "args": {}}), "--json")

    assert answer.json["update"] == [{"id": "json.one", "changes": {"args": {"from": {"text": "x"}, "to": {}}}}]


def test_a_file_comes_from_stdin(tmp_path: Path) -> None:
    text = json.dumps({"schedules": [{"id": "stdin.one", **HOURLY}]})

    assert good("schedules", "apply", "-", "--source", "piped", given=text).out.endswith("Applied.\n")
    assert good("schedules", "show", "stdin.one", "--json").json["source"] == "piped"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"schedule": "0 25 * * *"}, "schedules[0].schedule.hour: '25' is outside 0-23"),
        ({"task_type": "cli.eco"}, "schedules[0].task_type: 'cli.eco' is no known task type; did you mean cli.echo?"),
        ({"args": {"times": 0}}, "schedules[0].args.times: '0' input should be greater than or equal to 1"),
        (
            {"shedule": "@daily"},
            "schedules[0].shedule: 'shedule' is no key of a schedules file; did you mean schedule?",
        ),
    ],
)
def test_a_wrong_file_is_refused_and_changes_nothing(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    path = written(tmp_path, {"id": "wrong.one", **HOURLY, **entry})

    answer = verger("schedules", "apply", path)

    assert (answer.code, answer.out) == (1, "")
    assert said in answer.err
    assert mine(tmp_path) == []


def test_an_unknown_type_is_taken_where_it_is_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, {"id": "elsewhere", **HOURLY, "task_type": "cli.elsewhere", "enabled": False})

    good("schedules", "apply", path, "--allow-unknown")

    assert mine(tmp_path)[0]["taskType"] == "cli.elsewhere"


def test_a_file_that_is_not_there_is_named() -> None:
    answer = verger("schedules", "apply", "/nowhere/file.json")

    assert answer.code == 1
    assert "FILE: '/nowhere/file.json' cannot be read: No such file or directory" in answer.err


def test_pause_and_resume(tmp_path: Path) -> None:
    good("schedules", "apply", written(tmp_path, {"id": "pause.a", **HOURLY}, {"id": "pause.b", **HOURLY}))

    paused = good("schedules", "pause", "pause.a", "pause.b")
    asleep = mine(tmp_path)
    resumed = good("schedules", "resume", "pause.a", "--json")

    assert paused.out == "pause.a is paused\npause.b is paused\n"
    assert [(schedule["enabled"], schedule["nextFireAt"]) for schedule in asleep] == [(False, None)] * 2
    assert resumed.json["schedules"][0]["nextFireAt"] is not None
    assert "paused" in good("schedules", "list").out


@pytest.mark.parametrize("command", ["pause", "resume", "show", "run"])
def test_a_schedule_that_is_not_there_is_named(command: str) -> None:
    answer = verger("schedules", command, "nowhere")

    assert (answer.code, answer.err) == (1, "verger: there is no schedule 'nowhere'\n")


def test_a_schedule_runs_at_once_when_asked_also_while_paused(tmp_path: Path) -> None:
    good("schedules", "apply", written(tmp_path, {"id": "run.now", **HOURLY, "enabled": False}))

    answer = good("schedules", "run", "run.now", "--wait", "--json")

    task = answer.json["task"]
    assert (task["status"], task["scheduleId"], task["result"]) == ("completed", "run.now", {"text": "x"})
    listed = good("tasks", "list", "--schedule", "run.now", "--json").json["tasks"]
    assert [each["id"] for each in listed] == [task["id"]]


def test_a_schedule_fires_and_its_last_run_is_shown(tmp_path: Path) -> None:
    good("schedules", "apply", written(tmp_path, {"id": "fires", **HOURLY, "schedule": "@every 1s"}))

    until(lambda: mine(tmp_path)[0]["lastStatus"] == "completed", "a run", 15)
    good("schedules", "pause", "fires")

    shown = good("schedules", "show", "fires").out
    assert "next fire     paused" in shown
    assert "last run      completed" in shown
    assert "completed" in next(line for line in good("schedules", "list").out.splitlines() if line.startswith("fires "))


def test_a_table_fits_into_120_columns() -> None:
    assert max(map(len, good("schedules", "list").out.splitlines())) <= 120


# ---- backfill and jobs


def test_a_backfill_makes_what_is_missing_once(tmp_path: Path) -> None:
    entry = {"id": "backfill.one", **HOURLY, "schedule": "0 0 * * *", "overlap": "allow"}
    good("schedules", "apply", written(tmp_path, entry))
    command = ("schedules", "backfill", "backfill.one", "--from", "2026-01-01", "--to", "2026-01-04")

    dry = good(*command, "--dry-run")
    first, again = good(*command), good(*command, "--json")
    cut = good(*command, "--limit", "2")

    assert "3 tasks would be created: this was a dry run." in dry.out
    assert first.out.endswith("3 tasks created.\n")
    assert (again.json["created"], [fire["outcome"] for fire in again.json["fires"]]) == (0, ["known"] * 3)
    assert "There are more: go on with --from 2026-01-02T00:00:00.001Z." in cut.out
    explained = good("schedules", "explain", "backfill.one", "--from", "2026-01-01", "--to", "2026-01-04")
    assert explained.out.count("backfilled") == 3


def test_a_backfill_under_overlap_skip_says_how_to_go_on(tmp_path: Path) -> None:
    entry = {"id": "backfill.skip", **HOURLY, "args": {"text": "by itself"}, "schedule": "0 0 * * *"}
    good("schedules", "apply", written(tmp_path, entry))

    answer = good("schedules", "backfill", "backfill.skip", "--from", "2026-01-01", "--to", "2026-01-04")

    assert "1 task created.\n" in answer.out
    assert "give --overlap allow" in answer.out
    missing = verger("schedules", "backfill", "nowhere", "--from", "2026-01-01")
    assert (missing.code, missing.err) == (1, "verger: there is no schedule 'nowhere'\n")
    future = verger("schedules", "backfill", "backfill.skip", "--from", "2999-01-01")
    assert (future.code, "is not past" in future.err) == (1, True)


def test_jobs_show_how_each_schedule_is_doing(tmp_path: Path) -> None:
    good("schedules", "apply", written(tmp_path, {"id": "jobs.one", **HOURLY, "args": {"text": "job"}}))
    good("schedules", "run", "jobs.one", "--wait")

    def seen() -> dict[str, Any]:
        found: list[dict[str, Any]] = good("jobs", "--json").json["jobs"]
        return next(job for job in found if job["id"] == "jobs.one")

    until(lambda: bool(seen()["durationsMs"]), "the run to be noted")

    assert (seen()["cadence"], seen()["lastStatus"], seen()["overdueSince"]) == ("1h", "completed", None)
    table = good("jobs").out
    assert table.startswith("ID ")
    assert "jobs.one" in table


def test_overdue_jobs_end_with_1(tmp_path: Path) -> None:
    assert good("jobs", "--overdue").out == "No schedule is overdue.\n"
    entry = {"id": "jobs.late", **HOURLY, "expect_success_within": "1ms"}
    good("schedules", "apply", written(tmp_path, entry))

    late = verger("jobs", "--overdue")

    assert (late.code, "jobs.late" in late.out, "by " in late.out) == (1, True, True)
    good("schedules", "apply", written(tmp_path), "--prune")
