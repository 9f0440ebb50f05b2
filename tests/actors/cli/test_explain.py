"""``verger schedules explain``."""

import json
from pathlib import Path

import pytest

from tests.actors.cli.conftest import Answer, good, verger

EXPLAIN = ("schedules", "explain")


def fires(answer: Answer) -> list[str]:
    return [fire["at"] for fire in answer.json["fires"]]


def test_the_fires_of_a_window_include_its_start_and_not_its_end() -> None:
    window = ("--from", "2026-01-01T00:00:00Z", "--to", "2026-01-03T00:00:00Z")

    answer = good(*EXPLAIN, "--schedule", "@daily", *window, "--json")

    assert fires(answer) == ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
    said = {name: answer.json[name] for name in ("id", "schedule", "timezone", "from", "to", "truncated")}
    assert said == {
        "id": None,
        "schedule": "@daily",
        "timezone": "UTC",
        "from": "2026-01-01T00:00:00Z",
        "to": "2026-01-03T00:00:00Z",
        "truncated": False,
    }
    assert answer.err == ""


def test_fires_are_in_utc_whatever_the_time_zone() -> None:
    window = ("--from", "2026-03-28T00:00+01:00", "--to", "2026-03-31")

    answer = good("--json", *EXPLAIN, "--schedule", "30 2 * * *", "--timezone", "Europe/Berlin", *window)

    assert (answer.json["from"], answer.json["to"]) == ("2026-03-27T23:00:00Z", "2026-03-30T22:00:00Z")
    assert fires(answer) == ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    assert answer.json["fires"][1]["local"] == "2026-03-29T03:00:00+02:00"
    assert answer.json["fires"][1]["clock"].startswith("02:30 does not exist on this day")


def test_milliseconds_are_kept() -> None:
    window = ("--from", "1970-01-01T00:00:00Z", "--to", "1970-01-01T00:00:04Z")

    assert fires(good(*EXPLAIN, "--schedule", "@every 1500ms", *window, "--json")) == [
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:01.500000Z",
        "1970-01-01T00:00:03Z",
    ]


def test_a_long_list_is_cut_and_says_so() -> None:
    window = ("--from", "2026-01-01", "--to", "2027-01-01")

    by_default = good(*EXPLAIN, "--schedule", "* * * * *", *window, "--json").json
    for_people = good(*EXPLAIN, "--schedule", "* * * * *", *window, "--limit", "2")

    assert (len(by_default["fires"]), by_default["truncated"]) == (1000, True)
    assert "2026-01-01 00:01:00Z\nand more: cut after 2" in for_people.out


def test_exactly_as_many_as_the_limit_is_not_cut() -> None:
    window = ("--from", "2026-01-01", "--to", "2026-01-03", "--limit", "2")

    assert not good(*EXPLAIN, "--schedule", "@daily", *window, "--json").json["truncated"]


@pytest.mark.parametrize(
    ("schedule", "window", "said"),
    [
        (
            "30 2 * * *",
            ("2026-03-28", "2026-03-31"),
            "from 02:00 to 03:00 does not exist: a time of day in it fires at",
        ),
        ("30 2 * * *", ("2026-10-24", "2026-10-27"), "from 02:00 to 03:00 comes twice"),
    ],
)
def test_people_see_the_local_time_and_are_told_of_clock_changes(
    schedule: str, window: tuple[str, str], said: str
) -> None:
    zone = ("--timezone", "Europe/Berlin")

    answer = good(*EXPLAIN, "--schedule", schedule, *zone, "--from", window[0], "--to", window[1])

    assert said in answer.out
    assert answer.out.count("on this day") == 1
    assert "Sun 2026-" in answer.out


def test_a_fire_at_its_own_time_is_the_first_after_the_clocks_changed() -> None:
    window = ("--from", "2026-03-28", "--to", "2026-03-31")

    answer = good(*EXPLAIN, "--schedule", "0 12 * * *", "--timezone", "Europe/Berlin", *window)

    assert answer.out.count("first after the clocks changed") == 1


def test_an_empty_window_tells_the_next_fire() -> None:
    answer = good(*EXPLAIN, "--schedule", "@yearly", "--from", "2026-01-02", "--to", "2026-02-01")

    assert "never in this window; the next one is at 2027-01-01 00:00:00Z" in answer.out
    over = good(*EXPLAIN, "--schedule", "@at 2026-01-01T00:00:00Z", "--from", "2026-01-02", "--to", "2026-02-01")
    assert "and never after it" in over.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--schedule", "61 * * * *"), "schedule.minute: '61' is outside 0-59; use 0-59"),
        (("--schedule", "@daily", "--timezone", "Mars"), "timezone: 'Mars' is not a known time zone"),
        (("--schedule", "@daily", "--from", "yesterday"), "--from: 'yesterday' is no instant"),
        (("--schedule", "@daily", "--to", "2026-13-01"), "--to: '2026-13-01' is no instant"),
        (("--schedule", "@daily", "--from", "2026-01-02", "--to", "2026-01-02"), "is not after --from"),
        (("--schedule", "@daily", "--from", "9999-12-31"), "is too near the end of the calendar"),
        (("--schedule", "@daily", "--from", "8999-12-31"), "to: '9000-01-07T00:00:00+00:00' is out of range"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], said: str) -> None:
    answer = verger(*EXPLAIN, *arguments, "--json")

    assert (answer.code, answer.out) == (1, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [(), ("some-id", "--schedule", "@daily"), ("some-id", "--timezone", "UTC"), ("--limit", "0")]
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert verger(*EXPLAIN, *arguments).code == 2


@pytest.mark.usefixtures("instance")
def test_a_stored_schedule_is_explained_with_its_state(tmp_path: Path) -> None:
    entry = {"id": "explained", "task_type": "cli.echo", "schedule": "@yearly", "jitter": "90s", "enabled": False}
    (tmp_path / "file.json").write_text(json.dumps({"schedules": [entry]}))
    good("schedules", "apply", str(tmp_path / "file.json"))

    for_people = good(*EXPLAIN, "explained", "--from", "2027-01-01", "--to", "2027-01-02")
    for_machines = good(*EXPLAIN, "explained", "--from", "2027-01-01", "--to", "2027-01-02", "--json")

    assert "It is paused" in for_people.out
    assert "up to 1m30s later (jitter)" in for_people.out
    assert (for_machines.json["id"], fires(for_machines)) == ("explained", ["2027-01-01T00:00:00Z"])
    assert for_machines.json["fires"][0]["state"] == "paused"
    missing = verger(*EXPLAIN, "nowhere")
    assert (missing.code, missing.err) == (1, "verger: there is no schedule 'nowhere'\n")
