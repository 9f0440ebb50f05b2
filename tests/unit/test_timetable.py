"""Files to plans: what is created, changed, kept and refused, and where the message says it is."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from actors import actor
from schemas.duration import exact_duration
from schemas.schedule import Misfire, Overlap, Schedule, ScheduleFile
from service import timetable
from service.errors import Conflict, InvalidSchedule, NotFound
from service.registry import Registry
from service.schedule_entry import Rules, to_schedule
from service.schedule_file import MAX_FILE_BYTES, file_from, read_file, to_entry, to_file
from service.store.port import Edit, Schedules
from service.timetable import Plan, Timetable, edited, paused, resumed

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class Report(BaseModel):
    customer: str
    rows: int = 10


@actor("report.build", aliases=["Build Report"])
async def build_report(body: Report) -> None:
    """Build a report."""


@actor("test.noop")
async def noop(body: dict[str, Any]) -> None:
    """Nothing."""


RULES = Rules(Registry([build_report, noop]))


def entry(**changes: Any) -> dict[str, Any]:
    return {"id": "hourly", "task_type": "test.noop", "schedule": "@hourly", **changes}


def file(*entries: dict[str, Any]) -> ScheduleFile:
    return file_from({"schedules": list(entries)})


def stored(**changes: Any) -> Schedule:
    """As the store gives it back, some fires later."""
    schedule = to_schedule(file(entry(**changes)).schedules[0], RULES, NOW - timedelta(days=1), source="mine")
    return schedule.model_copy(
        update={"revision": 3, "last_task_id": "fire:x", "skipped": {"overlap": 2}, "next_fire_at": NOW}
        | ({} if schedule.enabled else {"next_fire_at": None})
    )


def plan(entries: ScheduleFile, *existing: Schedule, prune: bool = False, rules: Rules = RULES) -> Plan:
    return timetable.plan(entries, existing, "mine", prune, rules=rules, now=NOW)


def refusal(*entries: dict[str, Any]) -> InvalidSchedule:
    with pytest.raises(InvalidSchedule) as caught:
        plan(file(*entries))
    return caught.value


# ---- plans


def test_an_entry_becomes_a_schedule_that_fires_strictly_after_now() -> None:
    made = plan(file(entry(args={"a": 1}, jitter="10s"))).create[0]

    assert made.next_fire_at == NOW + timedelta(hours=1)
    assert (made.task_type, made.task_body, made.source) == ("test.noop", {"a": 1}, "mine")
    assert (made.overlap, made.misfire, made.jitter) == (Overlap.SKIP, Misfire.COALESCE, timedelta(seconds=10))
    assert made.revision == 0


def test_an_alias_is_resolved_as_people_write_it() -> None:
    made = plan(file(entry(task_type="Build  report", args={"customer": "ada"}))).create[0]

    assert made.task_type == "report.build"
    assert plan(file(entry(task_type="Build  report", args={"customer": "ada"})), made).unchanged == (made,)


def test_what_a_file_says_again_is_unchanged() -> None:
    before = stored(args={"a": 1, "b": [True]})

    planned = plan(file(entry(args={"b": [True], "a": 1})), before, prune=True)

    assert planned.empty
    assert planned.unchanged == (before,)


@pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (1, 1.0), (None, 0)])
def test_arguments_are_compared_as_json(old: Any, new: Any) -> None:
    planned = plan(file(entry(args={"a": new})), stored(args={"a": old}))

    assert planned.update[0].fields == {"args": ({"a": old}, {"a": new})}


def test_an_edit_of_the_arguments_keeps_the_next_fire_and_what_the_engine_knows() -> None:
    before = stored()

    change = plan(file(entry(args={"a": 2})), before).update[0]

    assert change.after.task_body == {"a": 2}
    assert change.after.next_fire_at == before.next_fire_at == NOW
    assert (change.after.revision, change.after.last_task_id, change.after.skipped) == (3, "fire:x", {"overlap": 2})


@pytest.mark.parametrize(
    ("change", "fire"),
    [
        ({"schedule": "30 * * * *"}, NOW + timedelta(minutes=30)),
        ({"timezone": "Asia/Kolkata"}, NOW + timedelta(minutes=30)),
        ({"enabled": False}, None),
    ],
)
def test_an_edit_of_the_times_computes_the_next_fire_anew(change: dict[str, Any], fire: datetime | None) -> None:
    planned = plan(file(entry(**change)), stored())

    assert planned.update[0].after.next_fire_at == fire
    assert list(planned.update[0].fields) == list(change)


def test_prune_deletes_what_has_the_same_source_and_nothing_else() -> None:
    mine, theirs, nobodys = (
        stored().model_copy(update={"id": name, "source": source})
        for name, source in (("a", "mine"), ("b", "theirs"), ("c", None))
    )

    assert plan(file(entry()), mine, theirs, nobodys, prune=True).delete == (mine,)
    assert plan(file(entry()), mine, theirs, nobodys).delete == ()


def test_the_source_stays_with_whom_it_was_created_by() -> None:
    theirs = stored().model_copy(update={"source": "theirs"})

    assert plan(file(entry()), theirs).unchanged == (theirs,)
    assert plan(file(entry(args={"a": 1})), theirs).update[0].after.source == "theirs"


# ---- refusals


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"schedule": "99 * * * *"}, r"schedules\[1\]\.schedule\.minute: '99' is outside 0-59; use 0-59"),
        ({"schedule": "soon"}, r"schedules\[1\]\.schedule: 'soon' has 1 fields instead of 5 or 6"),
        ({"schedule": "@at 9500-01-01T00:00:00Z"}, r"schedules\[1\]\.schedule: .* fires after the year"),
        ({"timezone": "Europe/Berln"}, r"schedules\[1\]\.timezone: 'Europe/Berln' .*; did you mean Europe/Berlin\?"),
        ({"task_type": "test.nop"}, r"schedules\[1\]\.task_type: .* did you mean test.noop\? known: report.build"),
        ({"task_type": "report.build"}, r"schedules\[1\]\.args\.customer: '' is missing; see verger schema"),
        ({"task_type": "report.build", "args": {"customer": "ada", "rows": "x"}}, r"schedules\[1\]\.args\.rows: 'x'"),
        ({"args": {"big": 2**63}}, r"schedules\[1\]\.args\.big: .* does not fit 64 bits"),
        ({"args": {"text": "x" * 300_000}}, r"schedules\[1\]\.args: .* is larger than 262144 bytes"),
        ({"jitter": "9999d"}, r"schedules\[1\]\.jitter: .* is not between 0 and 3653 days"),
        ({"misfire_grace": "0.0001s"}, r"schedules\[1\]\.misfire_grace: .* whole milliseconds"),
        ({"id": "first"}, r"schedules\[1\]\.id: 'first' is the id of schedules\[0\] too"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_its_place(wrong: dict[str, Any], said: str) -> None:
    assert_matches(said, refusal(entry(id="first"), entry(**wrong)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], r"file: '\[\]' is not an object"),
        ({}, r"schedules: '' is missing"),
        ({"schedules": {}}, r"schedules: '\{\}' is not a list"),
        ({"schedules": ["x"]}, r"schedules\[0\]: 'x' is not an object"),
        ({"schedules": [entry(), {"id": "x"}]}, r"schedules\[1\]\.task_type: '' is missing; add it"),
        ({"schedules": [entry(tasktype="x")]}, r"schedules\[0\]\.tasktype: 'tasktype' is no key .*did you mean task_"),
        ({"schedules": [entry(zzz=1)]}, r"is no key of a schedules file; there are: id, task_type"),
        ({"schedules": [entry(id="no spaces")]}, r"schedules\[0\]\.id: 'no spaces' is not an id"),
        ({"schedules": [entry(schedule=5)]}, r"schedules\[0\]\.schedule: '5' is not text"),
        ({"schedules": [entry(schedule="")]}, r"schedules\[0\]\.schedule: '' is empty"),
        ({"schedules": [entry(enabled="maybe")]}, r"schedules\[0\]\.enabled: 'maybe' is not true or false"),
        ({"schedules": [entry(overlap="queue")]}, r"schedules\[0\]\.overlap: 'queue' .*'skip' or 'allow'"),
        ({"schedules": [entry(jitter="-5s")]}, r"schedules\[0\]\.jitter: '-5s' .* is not a duration"),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_place(content: Any, said: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        read_file(json.dumps(content).encode())

    assert_matches(said, caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"schedules": [\n  {"id": "a",}\n]}', r"line 2, column \d+: '\{\"id\": \"a\",\}' is no JSON"),
        (b"", r"line 1, column 1: '' is no JSON: expecting value"),
        (b'{\n"schedules": "\xff"}', r"line 2: .* is not UTF-8"),
        (b'{"schedules": [], "schedules": []}', r"key: 'schedules' stands twice"),
        (b'{"schedules": [NaN]}', r"value: 'NaN' is not a JSON number"),
        (b"[" * 100_000, r"file: .* nests too deeply"),
        (b'{"schedules": ' + b"9" * 5000 + b"}", r"file: .* limit"),
        (b" " * (MAX_FILE_BYTES + 1), r"file: .* is larger than"),
    ],
)
def test_a_file_that_is_no_json_is_refused_with_the_line(data: bytes, said: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        read_file(data)

    assert_matches(said, caught.value)


def assert_matches(said: str, error: InvalidSchedule) -> None:
    with pytest.raises(InvalidSchedule, match=said):
        raise error


def test_an_unknown_type_is_let_through_where_it_is_allowed() -> None:
    rules = Rules(RULES.registry, allow_unknown=True)

    assert plan(file(entry(task_type="Other Thing")), rules=rules).create[0].task_type == "other_thing"
    with pytest.raises(InvalidSchedule, match=r"schedules\[0\]\.task_type: .* is not"):
        plan(file(entry(task_type="x" * 101)), rules=rules)


def test_a_source_is_a_short_text() -> None:
    for source in ("", "x" * 101, "a\nb"):
        with pytest.raises(InvalidSchedule, match=r"^source: "):
            timetable.plan(file(), [], source, False, rules=RULES, now=NOW)


# ---- pause and resume


def test_a_paused_schedule_has_no_next_fire_and_a_resumed_one_starts_from_now() -> None:
    schedule = stored()

    asleep = paused(schedule, NOW)
    awake = resumed(asleep, NOW + timedelta(days=3))

    assert (asleep.enabled, asleep.next_fire_at) == (False, None)
    assert (awake.enabled, awake.next_fire_at) == (True, NOW + timedelta(days=3, hours=1))
    assert paused(asleep, NOW) is asleep
    assert resumed(awake, NOW) is awake


# ---- there and back

SPANS = st.none() | st.timedeltas(timedelta(), timedelta(days=3653)).map(
    lambda span: span // timedelta(milliseconds=1) * timedelta(milliseconds=1)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def a_schedule(**fields: Any) -> Schedule:
    return Schedule(**fields)


SCHEDULES = st.builds(
    a_schedule,
    id=st.from_regex(r"[A-Za-z0-9_.-]{1,100}", fullmatch=True),
    task_type=st.sampled_from(["test.noop", "x"]),
    task_body=st.dictionaries(TEXT, JSON, max_size=3),
    schedule=st.sampled_from(["@hourly", "*/5 * * * *", "@every 90s", " 0 0 1 1 *"]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
    enabled=st.booleans(),
    overlap=st.sampled_from(Overlap),
    misfire=st.sampled_from(Misfire),
    misfire_grace=SPANS,
    jitter=SPANS,
    expect_success_within=SPANS,
)


@given(st.lists(SCHEDULES, max_size=3))
def test_a_file_made_of_schedules_says_all_of_them(schedules: list[Schedule]) -> None:
    text = json.dumps(to_file(schedules))

    assert read_file(text.encode()).schedules == [to_entry(schedule) for schedule in schedules]


@given(SCHEDULES)
def test_an_entry_and_back_loses_nothing(schedule: Schedule) -> None:
    rules = Rules(RULES.registry, allow_unknown=True)

    again = to_schedule(to_entry(schedule), rules, NOW)

    assert edited(schedule, again, NOW) is schedule


def test_a_file_always_says_the_five_keys_and_others_only_where_they_say_something() -> None:
    plain, full = stored(), stored(id="full", overlap="allow", jitter="1h30m", timezone="Europe/Berlin")

    assert to_file([plain, full])["schedules"] == [
        {"id": "hourly", "task_type": "test.noop", "schedule": "@hourly", "args": {}, "enabled": True},
        {
            "id": "full",
            "task_type": "test.noop",
            "schedule": "@hourly",
            "args": {},
            "enabled": True,
            "timezone": "Europe/Berlin",
            "overlap": "allow",
            "jitter": "1h30m",
        },
    ]


def test_a_duration_is_written_exactly() -> None:
    span = timedelta(days=400, hours=3, seconds=7, milliseconds=5)

    assert exact_duration(span) == "400d3h7s5ms"
    assert exact_duration(timedelta()) == "0s"


# ---- over a store


class FakeClient:
    """Counts the hints."""

    def __init__(self) -> None:
        self.told = 0

    async def schedules_changed(self) -> None:
        self.told += 1


class FakeSchedules:
    """A dictionary with the compare-and-set of the port."""

    def __init__(self, *schedules: Schedule) -> None:
        self.kept = {schedule.id: schedule for schedule in schedules}
        self.quicker = 0
        """How often somebody else is quicker."""

    async def all(self) -> list[Schedule]:
        return sorted(self.kept.values(), key=lambda schedule: schedule.id)

    async def get(self, schedule_id: str) -> Schedule | None:
        return self.kept.get(schedule_id)

    async def write(
        self,
        create: Sequence[Schedule] = (),
        edit: Sequence[Edit] = (),
        delete: Sequence[Schedule] = (),
        *,
        revision: int | None = None,
    ) -> None:
        if self.quicker:
            self.quicker -= 1
            raise Conflict("changed meanwhile")
        for schedule in [*create, *(each.after for each in edit)]:
            self.kept[schedule.id] = schedule.model_copy(update={"revision": schedule.revision + 1})
        for schedule in delete:
            del self.kept[schedule.id]


class FixedClock:
    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def over(*schedules: Schedule) -> tuple[Timetable, FakeSchedules, FakeClient]:
    kept, client = FakeSchedules(*schedules), FakeClient()
    return Timetable(as_port(kept), client, FixedClock(), RULES), kept, client  # type: ignore[arg-type]


def as_port(kept: FakeSchedules) -> Schedules:
    return kept  # type: ignore[return-value]


async def test_a_plan_is_written_and_the_schedulers_are_told_once() -> None:
    old = stored().model_copy(update={"id": "old"})
    table, kept, client = over(stored(), old)

    await table.apply(await table.plan(file(entry(args={"a": 1}), entry(id="new")), source="mine", prune=True))

    assert sorted(kept.kept) == ["hourly", "new"]
    assert client.told == 1


async def test_an_empty_plan_writes_and_tells_nothing() -> None:
    table, kept, client = over(stored())
    kept.quicker = 1

    await table.apply(await table.plan(file(entry()), source="mine"))

    assert client.told == 0


async def test_pause_and_resume_try_again_when_somebody_was_quicker() -> None:
    table, kept, client = over(stored())
    kept.quicker = 1

    assert not (await table.set_enabled("hourly", False)).after.enabled
    assert not (await table.set_enabled("hourly", False)).after.enabled
    assert (await table.set_enabled("hourly", True)).after.next_fire_at == NOW + timedelta(hours=1)
    assert client.told == 2

    kept.quicker = 99
    with pytest.raises(Conflict):
        await table.set_enabled("hourly", False)
    with pytest.raises(NotFound, match="there is no schedule 'none'"):
        await table.set_enabled("none", False)
