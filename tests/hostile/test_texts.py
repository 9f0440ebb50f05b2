"""Texts that people and programs hand in: schedules, files of them, crontabs, durations, session files."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from actors.cli.app import app
from actors.memories.signature import BadSecret, read_secrets
from actors.sessions.adapters.claude_code import ClaudeCode
from actors.sessions.adapters.port import FoundFile
from schemas.duration import parse_duration
from service.crontab import MOST_SETTINGS, CrontabEntry, CrontabProblem, read_crontab
from service.errors import InvalidSchedule
from service.registry import Registry
from service.schedule_entry import Rules, to_schedule
from service.schedule_file import MAX_FILE_BYTES, read_entry, read_file, read_patch, read_set
from service.triggers import parse_schedule
from tests.hostile.child import limited
from tests.hostile.harnesses import GOOD, parsed

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MANY = settings(database=None, max_examples=120)
NINES = "9" * 5000
"""More digits than Python reads as a number."""
MUCH = 60_000
IN_TURN = 3_000


# ---- schedules -------------------------------------------------------------------------------------------------------

SCHEDULES = [
    *(f"{NINES} * * * *", f"*/{NINES} * * * *", f"0-{NINES} * * * *", f"* * * * 1#{NINES}", f"* * {NINES}L * *"),
    *(f"@every {NINES}s", f"@every P{NINES}Y", f"@every {NINES}.{NINES}s", f"@at {NINES}", f"@at 2026-{NINES}"),
    *("@at 0001-01-01T00:00:00+23:59", "@at 9999-12-31T23:59:59-23:59", "@at 9999-12-31T23:59:59Z"),
    *("0 0 31 2 *", "0 0 31 2,4,6,9,11 *", "* " * MUCH, "1," * MUCH + "1 * * * *", "/" * MUCH),
    *("\0 * * * *", "٣ * * * *", "² * * * *", "* * * * *\n* * * * *", "@", "@every", "@at", "@every -1s", "@every 0s"),
]
ZONES = [
    "../../etc/passwd",
    "/etc/passwd",
    "Europe/../../../etc/passwd",
    "\0",
    "A" * MUCH,
    "Europe/Berlin\n",
    "",
    "é\ud800",
]


def test_nothing_hangs_its_reader() -> None:
    """All of it in one process, for it takes longer to start than to do the work."""
    counted = limited(read_all, seconds=60, megabytes=256)

    assert counted["schedules"] == len(SCHEDULES) + len(ZONES)
    assert counted["files"] == 4 * len(FILES)
    assert counted["settings"] == MUCH - MOST_SETTINGS
    assert counted["settings in turn with entries"] == 2 * IN_TURN - MOST_SETTINGS


def read_all() -> dict[str, int]:
    read_sessions()
    return {"schedules": read_schedules(), "files": read_files(), **read_crontabs()}


def read_schedules() -> int:
    refused = 0
    for text, zone in [*((text, "UTC") for text in SCHEDULES), *(("* * * * *", zone) for zone in ZONES)]:
        try:
            entry = read_entry(json.dumps({"task_type": "a.b", "schedule": text, "timezone": zone}).encode(), "one")
            to_schedule(entry, Rules(Registry(), allow_unknown=True), NOW)
        except InvalidSchedule as error:
            refused += len(str(error)) < 2000
        with suppress(InvalidSchedule):
            parse_schedule(text, zone).next_after(NOW)
    return refused


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
FILES = [
    *(
        b"[" * MUCH,
        b'{"schedules":' + b"[" * MUCH,
        b'{"schedules":[{"args":' + DEEP + b"}]}",
        b"",
        b"\xff",
        b"\0" * 100,
    ),
    *(b'{"schedules":[{"id":"a","id":"b"}]}', b'{"schedules":[{"jitter":NaN}]}', b'{"schedules":[{"jitter":1e999}]}'),
    *(b'{"schedules":[{"args":{"a":' + NINES.encode() + b"}}]}", b'{"schedules":[{"id":{"$ne":null}}]}'),
    *(
        b'{"schedules":{"$gt":""}}',
        b'{"schedules":[{"id":"\\ud800"}]}',
        b"[\n",
        b'{"schedules":\n\n',
        b'{"schedules":[{"id":"one",\r\x0b\n',
        b"x" * (MAX_FILE_BYTES + 1),
        b" " * MAX_FILE_BYTES,
    ),
]


MANY_KEYS = 200_000


def test_of_many_keys_the_one_that_stands_twice_is_found_in_a_moment() -> None:
    assert limited(many_keys, seconds=30, megabytes=512) == f"'{MANY_KEYS - 1}'"


def many_keys() -> str:
    numbers = [*range(MANY_KEYS), MANY_KEYS - 1]
    with pytest.raises(InvalidSchedule, match="stands twice") as refused:
        read_file(b"{" + b",".join(b'"%d":1' % number for number in numbers) + b"}")
    return repr(refused.value.value)


@pytest.mark.parametrize("begin", ["", '{"schedules":[{"id":', '{"schedules":[{"jitter":', '{"schedules":'])
def test_a_file_of_any_depth_is_refused(begin: str) -> None:
    """Some are read, though they are too deep to be written again."""
    end = "".join({"{": "}", "[": "]"}[each] for each in reversed(begin) if each in "{[")
    for depth in range(700, 1001):
        for inner in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            for read in (read_file, read_set):
                with pytest.raises(InvalidSchedule) as refused:
                    read((begin + inner + end).encode())
                assert len(str(refused.value)) < 2000
                assert len(refused.value.schedule_id or "") < 200


def test_a_key_that_somebody_made_long_is_cut_where_an_error_names_it() -> None:
    long = "k" * 1_000_000
    for data in ({long: 1}, {"schedules": [{long: 1}]}, {"schedules": [{"id": long, "args": 1}]}):
        with pytest.raises(InvalidSchedule) as refused:
            read_file(json.dumps(data).encode())
        assert len(str(refused.value)) < 500
        assert len(refused.value.schedule_id or "") < 200


def read_files() -> int:
    refused = 0
    for data in FILES:
        for read in (read_file, read_set, lambda data: read_entry(data, "one"), as_patch):
            try:
                read(data)
            except InvalidSchedule:
                refused += 1
    return refused


def as_patch(data: bytes) -> None:
    """What is none of the keys of a schedule is refused when it is applied."""
    if "schedules" in read_patch(data, "one"):
        raise InvalidSchedule("schedules", "…", "is no key")


entries = st.dictionaries(
    st.sampled_from(
        ["id", "task_type", "taskType", "schedule", "args", "jitter", "misfire", "$where", "a.b", "revision"]
    ),
    st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["* * * * *", "a.b", "5m", {}, []]),
    max_size=8,
)


@MANY
@given(said=st.lists(entries, max_size=3), raw=st.binary(max_size=30), whole=st.booleans())
def test_any_file_of_schedules_is_read_or_refused(said: list[dict[str, Any]], raw: bytes, whole: bool) -> None:
    data = json.dumps({"schedules": said}).encode() if whole else raw
    for read in (read_file, read_set):
        try:
            for entry in read(data).schedules:
                to_schedule(entry, Rules(Registry(), allow_unknown=True), NOW)
        except InvalidSchedule:
            pass


@MANY
@given(text=st.text(max_size=60) | st.text("0123456789.PTYMWDHSmshdw ", max_size=40))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        found = parse_duration(text)
    except ValueError:
        return
    assert isinstance(found, timedelta)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_é", "whsec_\ud800", "whsec_====", "whsec_\0", "é"])
def test_what_is_no_secret_of_a_webhook_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(BadSecret) as refused:
        read_secrets(text)
    assert "é" not in str(refused.value)


# ---- crontabs --------------------------------------------------------------------------------------------------------

lines = st.text("0123456789*/-,@abAB=%\\\"' \t\0#é", max_size=40) | st.sampled_from(
    ["* * * * * run", "@daily run%in", "CRON_TZ=Europe/Berlin", "A=b", "\"A\"='b'", "@reboot x", "CRON_TZ=../x"]
)


@MANY
@given(text=st.lists(lines | st.text(max_size=30), max_size=8).map("\n".join), system=st.booleans())
def test_any_crontab_is_read_line_by_line(text: str, system: bool) -> None:
    for each in read_crontab(text, timezone="UTC", system=system):
        assert isinstance(each, CrontabEntry | CrontabProblem)


LONG = {
    "settings": "".join(f"A{number}=1\n" for number in range(MUCH)),
    "settings in turn with entries": "".join(f"A{n}=1\n* * * * * run\n" for n in range(IN_TURN)),
    "percent signs": "* * * * * run " + "\\%" * MUCH,
    "an open quote": '"' + "a" * MUCH,
    "spaces": "a" + " " * MUCH + "b",
    "a long field": "1," * MUCH + " * * * run",
    "a long number with a step": "1" * MUCH + "/5 * * * * run",
    "lines of nothing": "\n" * MUCH,
}


def read_crontabs() -> dict[str, int]:
    return {name: sum(1 for _ in read_crontab(text, timezone="UTC")) for name, text in LONG.items()}


def test_a_word_of_a_crontab_is_cut_where_an_error_names_it() -> None:
    (problem,) = read_crontab(LONG["a long number with a step"], timezone="UTC")

    assert isinstance(problem, CrontabProblem)
    assert len(str(problem.error)) < 1000


def test_settings_count_for_the_lines_below_them_alone() -> None:
    text = "A=1\n* * * * * one\nA=2\nB=3\n* * * * * two\n"
    found = [each for each in read_crontab(text, timezone="UTC") if isinstance(each, CrontabEntry)]

    assert [each.environment for each in found] == [{"A": "1"}, {"A": "2", "B": "3"}]


@pytest.mark.long
def test_a_crontab_of_one_program_many_times_is_carried_over_in_a_moment() -> None:
    assert limited(import_many, seconds=60, megabytes=512) == [0, "run", "run-2", "run-20000"]


def import_many() -> list[Any]:
    done = CliRunner().invoke(
        app, ["schedules", "import-crontab", "-", "--type", "a.b"], input="* * * * * run\n" * 20_000
    )
    ids = [each["id"] for each in json.loads(done.stdout)["schedules"]]
    return [done.exit_code, ids[0], ids[1], ids[-1]]


def test_a_map_that_nests_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(DEEP)
    (tmp_path / "crontab").write_text("* * * * * run\n")
    done = CliRunner().invoke(
        app, ["schedules", "import-crontab", str(tmp_path / "crontab"), "--map", str(tmp_path / "map")]
    )

    assert done.exit_code == 1
    assert "is no JSON" in done.stderr


# ---- session files ---------------------------------------------------------------------------------------------------

odd_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@MANY
@given(
    field=st.sampled_from([*GOOD, "$where", "a.b"]),
    value=odd_values
    | st.sampled_from(["\0", "\ud800", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "x" * 5000]),
    inside=st.booleans(),
    end=st.sampled_from([b"\n", b"\r\n", b"", b"\0\n"]),
)
def test_any_line_of_a_session_is_a_message_or_malformed(field: str, value: Any, inside: bool, end: bytes) -> None:
    line: dict[str, Any] = json.loads(json.dumps(GOOD))
    (line["message"] if inside else line)[field] = value
    parsed(json.dumps(line).encode() + end + json.dumps(GOOD).encode() + b"\n")


@MANY
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_session_file(data: bytes) -> None:
    parsed(data)


SESSIONS = {
    "lists in lists": b"[" * 300_000,
    "objects in objects": b'{"type":"user","message":' + b'{"a":' * 300_000,
    "deep and closed": b'{"type":"user","message":{"content":[' + DEEP + b"]}}",
    "a long number": b'{"type":"user","message":' + NINES.encode() + b"}",
    "a long line": b"x" * 3_000_000,
    "no line": b"\0" * 300_000,
    "line ends": b"\n" * 300_000,
    "almost an object": b"}" * 300_000,
}


def read_sessions() -> None:
    for data in SESSIONS.values():
        parsed(data + b"\n")
        parsed(data)


@pytest.mark.parametrize("name", ["../x.jsonl", "a\nb.jsonl", "\x1b[2J.jsonl"])
def test_a_file_s_name_is_shown_and_never_followed(name: str) -> None:
    found = FoundFile(Path("/logs"), ("project", name), 0, 0, 0)

    assert ClaudeCode().project_path(found, ["/home/ada"]) == "/home/ada"
    assert found.path.startswith("/logs/project/")
