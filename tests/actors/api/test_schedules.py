"""Schedules over HTTP: look, replace, change, pause, run, explain, backfill; and as a file."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from schemas.access import KeyRole
from tests.actors.api.conftest import Api

SCHEDULES, CRON = "/admin/schedules", "/.config/cron.json"
HOURLY = {"taskType": "api.echo", "schedule": "@hourly", "taskBody": {"text": "x"}}
HOUR = timedelta(hours=1)


async def put(api: Api, schedule_id: str, **changes: Any) -> dict[str, Any]:
    answer = await api.admin.put(f"{SCHEDULES}/{schedule_id}", json={**HOURLY, **changes})
    assert answer.status_code in (200, 201), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def ids(api: Api) -> list[str]:
    return [schedule["id"] for schedule in (await api.viewer.get(SCHEDULES)).json()["schedules"]]


async def audited(api: Api) -> list[dict[str, Any]]:
    """Oldest first."""
    changes: list[dict[str, Any]] = (await api.admin.get("/admin/audit")).json()["entries"]
    return changes[::-1]


def wrong(answer: httpx.Response) -> dict[str, Any]:
    """The one thing that is wrong, of a problem."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    [found] = answer.json()["errors"]
    return {name: found.get(name) for name in ("index", "id", "field", "line") if found.get(name) is not None}


def twenty(**bad: Any) -> list[dict[str, Any]]:
    """As a file says them; the fourteenth has a fault."""
    entries: list[dict[str, Any]] = [
        {"id": f"s{number:02}", "task_type": "api.echo", "schedule": "@daily"} for number in range(20)
    ]
    entries[13] |= bad
    return entries


# ---- one -------------------------------------------------------------------------------------------------------------


async def test_a_schedule_is_created_shown_changed_and_deleted_and_all_of_it_is_audited(api: Api) -> None:
    created = await api.admin.put(f"{SCHEDULES}/one", json=HOURLY)
    shown = await api.viewer.get(f"{SCHEDULES}/one")
    changed = await api.admin.patch(f"{SCHEDULES}/one", json={"jitter": "90s", "enabled": False})
    reset = await api.admin.patch(f"{SCHEDULES}/one", json={"jitter": None})
    replaced = await api.admin.put(f"{SCHEDULES}/one", json={**HOURLY, "schedule": "@daily"})
    gone = await api.admin.delete(f"{SCHEDULES}/one")

    assert (created.status_code, created.headers["etag"]) == (201, '"1"')
    assert (shown.json(), shown.headers["etag"]) == (created.json(), '"1"')
    assert (shown.json()["taskBody"], shown.json()["source"]) == ({"text": "x"}, "api")
    assert (changed.json()["jitter"], changed.json()["nextFireAt"], changed.headers["etag"]) == ("1m30s", None, '"2"')
    assert reset.json()["jitter"] is None
    assert (replaced.status_code, replaced.json()["schedule"], replaced.json()["enabled"]) == (200, "@daily", True)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await api.viewer.get(f"{SCHEDULES}/one")).status_code == 404
    lines = await audited(api)
    assert [line["action"] for line in lines] == [
        "schedule.create",
        "schedule.change",
        "schedule.change",
        "schedule.replace",
        "schedule.delete",
    ]
    assert {(line["who"], line["target"]) for line in lines} == {("the-admin", "one")}
    assert (lines[1]["before"].get("jitter"), lines[1]["after"]["jitter"]) == (None, "1m30s")
    assert (lines[-1]["before"]["schedule"], lines[-1]["after"]) == ("@daily", None)


async def test_a_schedule_that_is_shown_can_be_put_back_as_it_is(api: Api) -> None:
    shown = await put(api, "round", jitter="90s", expectSuccessWithin="1d")

    again = await api.admin.put(f"{SCHEDULES}/round", json=shown)
    everything = await api.admin.put(SCHEDULES, json=(await api.viewer.get(SCHEDULES)).json())

    assert (again.status_code, again.json()) == (200, shown)
    assert (everything.status_code, everything.json()["unchanged"]) == (200, ["round"])
    assert everything.json()["applied"] is False


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "pause"])
async def test_only_what_the_caller_has_seen_is_changed(api: Api, method: str) -> None:
    await put(api, "seen")
    await put(api, "seen", jitter="1s")

    async def change(etag: str) -> httpx.Response:
        headers = {"If-Match": etag}
        if method == "pause":
            return await api.operator.post(f"{SCHEDULES}/seen/pause", headers=headers)
        body = None if method == "DELETE" else {**HOURLY, "schedule": "@weekly"}
        return await api.admin.request(method, f"{SCHEDULES}/seen", json=body, headers=headers)

    late, in_time, wrong_form = await change('"1"'), await change('"2"'), await change("*")

    assert late.status_code == 412
    assert late.json()["detail"] == "schedule 'seen' was changed since you read it; read it again"
    assert in_time.status_code in (200, 204)
    assert wrong(wrong_form) == {"field": "header.if-match"}


async def test_of_two_who_have_seen_the_same_one_is_told(api: Api) -> None:
    await put(api, "race")

    answers = await asyncio.gather(
        *(
            api.admin.patch(f"{SCHEDULES}/race", json={"taskBody": {"text": name}}, headers={"If-Match": '"1"'})
            for name in ("one", "other")
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200, 412]
    winner = next(answer for answer in answers if answer.status_code == 200)
    assert (await api.viewer.get(f"{SCHEDULES}/race")).json()["taskBody"] == winner.json()["taskBody"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schedule": "0 25 * * *"}, "schedule.hour"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"taskBody": {"times": 0}}, "args.times"),
        ({"taskType": "nobody.knows"}, "task_type"),
        ({"jitter": "soon"}, "jitter"),
        ({"shedule": "@daily"}, "shedule"),
        ({"id": "other"}, "id"),
        ({}, "body"),
        ({"nextFireAt": "2026-01-01T00:00:00Z"}, "body"),
    ],
)
async def test_a_change_that_cannot_be_is_refused_with_its_field(api: Api, change: dict[str, Any], field: str) -> None:
    before = await put(api, "refused")

    answer = await api.admin.patch(f"{SCHEDULES}/refused", json=change)

    assert wrong(answer) == {"field": field}
    assert (await api.viewer.get(f"{SCHEDULES}/refused")).json() == before


async def test_a_type_that_is_not_loaded_is_taken_when_that_is_said(api: Api) -> None:
    answer = await api.admin.put(
        f"{SCHEDULES}/foreign", json={**HOURLY, "taskType": "Nobody Knows"}, params={"allowUnknown": "true"}
    )

    assert (answer.status_code, answer.json()["taskType"]) == (201, "nobody_knows")


async def test_a_schedule_is_paused_and_resumed_and_only_changes_are_audited(api: Api) -> None:
    await put(api, "tired")

    paused = [await api.operator.post(f"{SCHEDULES}/tired/pause") for _ in range(2)]
    resumed = await api.operator.post(f"{SCHEDULES}/tired/resume")

    assert [(answer.status_code, answer.json()["enabled"]) for answer in paused] == [(200, False)] * 2
    assert (resumed.json()["enabled"], resumed.json()["nextFireAt"]) == (True, resumed.json()["nextFireAt"])
    assert [line["action"] for line in await audited(api)][1:] == ["schedule.pause", "schedule.resume"]


async def test_a_schedule_is_run_now_beside_its_fires(api: Api) -> None:
    before = await put(api, "now")

    answer = await api.operator.post(f"{SCHEDULES}/now/run")

    assert answer.status_code == 202
    done = await api.client.wait(answer.json()["id"])
    assert (done.schedule_id, done.result) == ("now", {"text": "x"})
    after = (await api.viewer.get(f"{SCHEDULES}/now")).json()
    assert after["nextFireAt"] == before["nextFireAt"]
    assert [line["after"] for line in await audited(api)][1:] == [{"taskId": done.id}]


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("GET", SCHEDULES, KeyRole.VIEWER),
        ("PUT", SCHEDULES, KeyRole.ADMIN),
        ("GET", f"{SCHEDULES}/any", KeyRole.VIEWER),
        ("PUT", f"{SCHEDULES}/any", KeyRole.ADMIN),
        ("PATCH", f"{SCHEDULES}/any", KeyRole.ADMIN),
        ("DELETE", f"{SCHEDULES}/any", KeyRole.ADMIN),
        ("POST", f"{SCHEDULES}/any/pause", KeyRole.OPERATOR),
        ("POST", f"{SCHEDULES}/any/resume", KeyRole.OPERATOR),
        ("POST", f"{SCHEDULES}/any/run", KeyRole.OPERATOR),
        ("GET", f"{SCHEDULES}/any/explain", KeyRole.VIEWER),
        ("POST", f"{SCHEDULES}/any/backfill", KeyRole.ADMIN),
        ("GET", CRON, KeyRole.VIEWER),
        ("PUT", CRON, KeyRole.ADMIN),
        ("GET", "/admin/jobs", KeyRole.VIEWER),
    ],
)
async def test_each_role_may_do_what_it_may(api: Api, method: str, path: str, least: KeyRole) -> None:
    for role in KeyRole:
        body: dict[str, Any] | None = {} if method in ("PUT", "PATCH") or path.endswith("backfill") else None
        answer = await api.of(role).request(method, path, json=body)
        assert (answer.status_code == 403) == (role.rank < least.rank), (role, answer.text)
    assert (await api.stranger.request(method, path)).status_code == 401


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SCHEDULES, CRON])
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"schedule": "0 25 * * *"}, "schedules[13].schedule.hour"),
        ({"jitter": "soon"}, "schedules[13].jitter"),
        ({"args": {"times": 0}}, "schedules[13].args.times"),
        ({"shedule": "@daily"}, "schedules[13].shedule"),
        ({"enabled": "perhaps"}, "schedules[13].enabled"),
        ({"task_type": "nobody.knows"}, "schedules[13].task_type"),
    ],
)
async def test_one_bad_entry_among_twenty_changes_nothing(api: Api, path: str, bad: dict[str, Any], field: str) -> None:
    await put(api, "there", schedule="@yearly")  # nothing falls due between the two looks
    before = (await api.viewer.get(SCHEDULES)).json()

    answer = await api.admin.put(path, json={"schedules": twenty(**bad)})

    assert wrong(answer) == {"index": 13, "id": "s13", "field": field}
    assert (await api.viewer.get(SCHEDULES)).json() == before
    assert len(await audited(api)) == 1


@pytest.mark.parametrize("path", [SCHEDULES, CRON])
async def test_two_entries_of_one_id_change_nothing(api: Api, path: str) -> None:
    answer = await api.admin.put(path, json={"schedules": twenty(id="s02")})

    assert wrong(answer) == {"index": 13, "id": "s02", "field": "schedules[13].id"}
    assert await ids(api) == []


@pytest.mark.parametrize("path", [SCHEDULES, CRON])
async def test_a_file_that_is_no_json_is_refused_with_its_line(api: Api, path: str) -> None:
    text = '{\n "schedules": [\n  {"id": "a" "task_type": "b"}\n ]}'

    answer = await api.admin.put(path, content=text, headers={"Content-Type": "application/json"})

    assert wrong(answer) == {"field": "line 3, column 14", "line": 3}


async def test_the_file_that_is_read_can_be_written_back(api: Api) -> None:
    await put(api, "a", jitter="90s")
    await put(api, "b", timezone="Europe/Berlin", overlap="allow", enabled=False)

    read = await api.viewer.get(CRON)
    dry = await api.admin.put(CRON, json={"schedules": []}, params={"dryRun": "true"})
    same = await api.admin.put(CRON, content=read.content, headers={"Content-Type": "application/json"})
    one = {"schedules": [read.json()["schedules"][1], {**twenty()[0], "args": {"text": "new"}}]}
    written = await api.admin.put(CRON, json=one, headers={"If-Match": read.headers["etag"]})

    a = {"id": "a", "task_type": "api.echo", "schedule": "@hourly", "args": {"text": "x"}, "enabled": True}
    assert read.json()["schedules"][0] == {**a, "jitter": "1m30s"}
    assert (dry.json()["delete"], dry.json()["applied"]) == (["a", "b"], False)
    assert (same.json()["unchanged"], same.json()["applied"]) == (["a", "b"], False)
    assert written.json() == {
        "create": ["s00"],
        "update": [],
        "delete": ["a"],
        "unchanged": ["b"],
        "source": "cron.json",
        "applied": True,
    }
    assert await ids(api) == ["b", "s00"]
    [line] = [line for line in await audited(api) if line["action"] == "schedules.replace"]
    assert [each["id"] for each in line["before"]["schedules"]] == ["a"]
    assert [each["id"] for each in line["after"]["schedules"]] == ["s00"]


async def test_a_replacement_of_a_set_that_was_changed_since_is_refused(api: Api) -> None:
    etag = (await api.viewer.get(SCHEDULES)).headers["etag"]
    await put(api, "quicker")

    for path in (SCHEDULES, CRON):
        answer = await api.admin.put(path, json={"schedules": []}, headers={"If-Match": etag})
        assert answer.status_code == 412

    assert await ids(api) == ["quicker"]


async def test_replacing_all_is_atomic_under_concurrent_edits(api: Api) -> None:
    """Four replace everything and one edits, all at once: what is left is what one of them said, or that and the
    edit."""
    for number in range(6):
        sets = {name: [f"{name}{number}.{each}" for each in range(5)] for name in "abcd"}

        async def replace(names: list[str]) -> int:
            entries = [{"id": name, "task_type": "api.echo", "schedule": "@daily"} for name in names]
            return (await api.admin.put(SCHEDULES, json={"schedules": entries})).status_code

        async def edit(schedule_id: str) -> int:
            return (await api.admin.put(f"{SCHEDULES}/{schedule_id}", json=HOURLY)).status_code

        *answers, edited = await asyncio.gather(*map(replace, sets.values()), edit(f"edit{number}"))

        assert set(answers) <= {200, 409}
        assert 200 in answers
        assert edited in (201, 409)
        left = await ids(api)
        assert [name for name in left if name != f"edit{number}"] in list(sets.values())


# ---- fires -----------------------------------------------------------------------------------------------------------


async def test_fires_are_explained_backfilled_once_and_explained_again(api: Api) -> None:
    await put(api, "back", overlap="allow", schedule="@daily")
    end = api.store.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    window = {"from": (end - 3 * 24 * HOUR).isoformat(), "to": end.isoformat()}
    path = f"{SCHEDULES}/back"

    before = (await api.viewer.get(f"{path}/explain", params=window)).json()
    dry = (await api.admin.post(f"{path}/backfill", json={**window, "dryRun": True})).json()
    made = (await api.admin.post(f"{path}/backfill", json=window)).json()
    again = (await api.admin.post(f"{path}/backfill", json=window)).json()
    for fire in made["fires"]:
        await api.client.wait(fire["taskId"])
    after = (await api.viewer.get(f"{path}/explain", params=window)).json()

    assert [fire["state"] for fire in before["fires"]] == ["absent"] * 3
    assert [fire["outcome"] for fire in dry["fires"]] == ["planned"] * 3
    assert (dry["created"], made["created"], again["created"]) == (3, 3, 0)
    assert [(fire["state"], fire["status"], fire["reason"]) for fire in after["fires"]] == [
        ("fired", "completed", "backfilled")
    ] * 3
    [line] = [line for line in await audited(api) if line["action"] == "schedule.backfill"]
    assert line["after"]["taskIds"] == [fire["taskId"] for fire in made["fires"]]


async def test_a_week_from_now_is_explained_and_the_list_is_bounded(api: Api) -> None:
    await put(api, "soon", timezone="Europe/Berlin", schedule="0 12 * * *")

    week = (await api.viewer.get(f"{SCHEDULES}/soon/explain")).json()
    cut = (await api.viewer.get(f"{SCHEDULES}/soon/explain", params={"limit": 2})).json()

    assert [fire["state"] for fire in week["fires"]] == ["future"] * 7
    assert all(datetime.fromisoformat(fire["local"]).hour == 12 for fire in week["fires"])
    assert (len(cut["fires"]), cut["truncated"], week["truncated"]) == (2, True, False)


@pytest.mark.parametrize("path", ["", "/explain"])
async def test_a_schedule_that_is_not_there_is_not_found(api: Api, path: str) -> None:
    answer = await api.viewer.get(f"{SCHEDULES}/none{path}")

    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no schedule 'none'")


async def test_jobs_tell_how_schedules_are_doing(api: Api) -> None:
    await put(api, "job", schedule="@every 10m")
    run = await api.operator.post(f"{SCHEDULES}/job/run")
    await api.client.wait(run.json()["id"])

    async with asyncio.timeout(10):
        while not (seen := (await api.viewer.get("/admin/jobs")).json()["jobs"][0])["durationsMs"]:
            await asyncio.sleep(0.05)

    assert (seen["id"], seen["cadence"], seen["lastStatus"]) == ("job", "10m", "completed")
    assert (seen["overdueSince"], seen["overdueBy"], len(seen["durationsMs"])) == (None, None, 1)
