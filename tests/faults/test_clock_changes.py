"""The clocks of a time zone go forward or back while its schedules fire: a zone made for the test, in which that
happens in a few seconds."""

import struct
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from schemas.schedule import Overlap, Schedule
from service.clock_changes import ClockChange, changes
from service.triggers import trigger_of
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check, check_fires
from tests.faults.kit.record import Recorder

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
DIRECTIONS = {"forward": HOUR, "back": -HOUR}


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[Path]:
    """Where the zones of this process lie, and of those that it starts with the variable PYTHONTZPATH."""
    folder, usual = tmp_path / "zones", zoneinfo.TZPATH
    folder.mkdir()
    zoneinfo.reset_tzpath([str(folder), *usual])
    yield folder
    zoneinfo.reset_tzpath(usual)


def write_zone(file: Path, at: datetime, before: timedelta, after: timedelta) -> None:
    """In the format of RFC 8536, version 1: one change of the offset from UTC."""
    kinds = [struct.pack(">lBB", int(offset.total_seconds()), 0, 0) for offset in (before, after)]
    counts = struct.pack(">6l", 0, 0, 0, 1, len(kinds), 4)
    change = struct.pack(">lB", int(at.timestamp()), 1)
    file.write_bytes(b"TZif" + bytes(16) + counts + change + b"".join(kinds) + b"ZON\0")


@pytest.mark.long
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_each_instant_fires_once_when_the_clocks_of_its_zone_go_forward_or_back(
    fleet: Fleet, record: Recorder, zones: Path, direction: str
) -> None:
    shift = DIRECTIONS[direction]
    now = fleet.store.clock.now()
    change = datetime.fromtimestamp(now.timestamp() // 2 * 2 + 20, UTC)
    # As in Europe: from 2:00 to 3:00, or from 3:00 to 2:00.
    local = change.replace(hour=2 if shift > timedelta() else 3, minute=0, second=0)
    zone = f"Changing{direction}{int(change.timestamp())}"
    write_zone(zones / zone, change, local - change, local - change + shift)
    day = 24 * HOUR - shift
    # Name → cron expression, the instants that fire, the next one afterwards.
    expected = {"hourly": ("57 59 * * * *", [change - 3 * SECOND], change - 3 * SECOND + HOUR)}
    if direction == "forward":
        expected["in_the_gap"] = ("0 20,40 2 * * *", [change], change + 20 * MINUTE + day)
        expected["after_it"] = ("4 0 3 * * *", [change + 4 * SECOND], change + 4 * SECOND + 24 * HOUR)
    else:
        expected["first_of_two"] = ("58 59 2 * * *", [change - 2 * SECOND], change - 2 * SECOND + day)
        expected["second_of_two"] = ("4 0 2 * * *", [], change + 4 * SECOND + 24 * HOUR)
    crons = {"each": "*/2 * * * * *", **{name: cron for name, (cron, _, _) in expected.items()}}
    schedules = [
        Schedule(id=name, task_type="fault.work", schedule=cron, timezone=zone, overlap=Overlap.ALLOW)
        for name, cron in crons.items()
    ]
    schedules = [
        each.model_copy(update={"next_fire_at": trigger_of(each.schedule, zone).next_after(now)}) for each in schedules
    ]
    there = {"PYTHONTZPATH": ":".join(zoneinfo.TZPATH)}
    await fleet.start("worker", environment=there)
    await fleet.start("scheduler", environment=there)
    await fleet.start("scheduler", environment=there)
    await fleet.store.schedules.write(schedules)
    await fleet.client.schedules_changed()

    last = change + 8 * SECOND
    await fleet.until(
        lambda: fleet.tasks.count_documents({"scheduleId": "each", "fireAt": last, "status": "completed"}) == 1,
        "a fire after the change",
    )
    findings = await check(fleet, [task["_id"] for task in fleet.tasks.find({"fireAt": {"$lte": last}}, {"_id": 1})])

    first = schedules[0].next_fire_at
    assert first is not None
    check_fires(fleet, "each", first, 2 * SECOND, (last - first) // (2 * SECOND) + 1)
    for name, (_, instants, coming) in expected.items():
        assert (name, await fired(fleet, name)) == (name, (instants, coming))
    [seen] = changes(now, change + 60 * SECOND, ZoneInfo(zone))
    assert seen == ClockChange(change, local.replace(tzinfo=None), (local + shift).replace(tzinfo=None))
    record(
        "Clocks",
        f"the clocks of the schedules' zone go {direction} by an hour, two schedulers",
        happened="elapsed time goes on; a time in the gap or in the repeated hour fires once",
        bite=f"the zone's clocks went from {seen.before:%H:%M} to {seen.after:%H:%M}, with fires on both sides",
        findings=findings,
    )


async def fired(fleet: Fleet, name: str) -> tuple[list[datetime], datetime | None]:
    """The instants that made a task, and the next one."""
    schedule = await fleet.store.schedules.get(name)
    assert schedule is not None
    return sorted(task["fireAt"] for task in fleet.tasks.find({"scheduleId": name})), schedule.next_fire_at
