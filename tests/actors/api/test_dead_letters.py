"""Dead letters over HTTP: look, replay at a rate, with a canary, with another body; discard."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from schemas.task import Task, TaskStatus
from service.broker.port import Publication
from service.client import NewTask
from service.store.port import DeadFilter
from tests.actors.api.conftest import HANDLERS, Api, serving
from tests.actors.api.moody import Mood

SECONDS = 60.0


@pytest.fixture
async def api(mongo_url: str, database: str) -> AsyncIterator[Api]:
    async with serving(mongo_url, database, actors=(HANDLERS, "tests.actors.api.moody")) as api:
        yield api


@pytest.fixture(autouse=True)
def gloom() -> None:
    """Every handler of ``api.moody`` fails, until the mood gets better."""
    Mood.good, Mood.started = False, []


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


async def dead(api: Api, count: int, task_type: str = "api.moody", **body: Any) -> list[str]:
    """So many dead letters, which are on their exchange."""
    tasks = await api.client.enqueue_many([NewTask(task_type, {**body, "n": number}) for number in range(count)])
    ids = [task.id for task in tasks]

    async def all_dead() -> bool:
        found = await api.store.tasks.get_many(ids)
        return all(task.status is TaskStatus.FAILED and task.relay_at is None for task in found.values())

    await until(all_dead, "the dead letters")
    Mood.started.clear()
    return ids


async def fingerprint_of(api: Api, task_id: str) -> str:
    error = (await api.client.get(task_id)).last_error
    assert error is not None
    return error.fingerprint


async def ended(api: Api, operation: dict[str, Any]) -> Task:
    return await api.client.wait(operation["operation"]["id"], "60s")


# ---- looking ---------------------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_page_by_page_and_in_groups(api: Api) -> None:
    ids = await dead(api, 3)
    [other] = await dead(api, 1, "api.moody", how="another way")

    first = (await api.viewer.get("/admin/dead-letters", params={"limit": 3})).json()
    second = (await api.viewer.get("/admin/dead-letters", params={"limit": 3, "cursor": first["cursor"]})).json()
    groups = (await api.viewer.get("/admin/dead-letters", params={"group": "fingerprint"})).json()
    one = {"fingerprint": await fingerprint_of(api, other), "type": "api.moody"}
    alone = (await api.viewer.get("/admin/dead-letters", params=one)).json()

    assert {task["id"] for task in (*first["deadLetters"], *second["deadLetters"])} == {*ids, other}
    assert first["deadLetters"][0]["id"] == other
    assert "cursor" not in second
    assert (groups["counted"], groups["complete"]) == (4, True)
    assert [(group["errorType"], group["place"], group["count"]) for group in groups["groups"]] == [
        ("RuntimeError", "moody.py:moody", 3),
        ("ValueError", "moody.py:moody", 1),
    ]
    assert [task["id"] for task in alone["deadLetters"]] == [other]


async def test_a_wrong_selection_is_refused_by_name(api: Api) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"ids": []},
        {"ids": ["a"], "taskType": "b"},
        {"taskType": "a", "rate": 0},
        {"taskType": "a", "taskBody": {}},
        {"ids": ["a"], "stopAbove": 1},
    ]
    for body in wrong:
        assert (await api.operator.post("/admin/dead-letters/replay", json=body)).status_code == 422, body
    assert (await api.admin.post("/admin/dead-letters/discard", json={"taskType": "a"})).status_code == 422
    assert (await api.viewer.get("/admin/dead-letters", params={"cursor": "x"})).status_code == 422


async def test_who_may_do_what(api: Api) -> None:
    selection = {"taskType": "nothing", "reason": "r"}

    assert (await api.viewer.post("/admin/dead-letters/replay", json={"taskType": "nothing"})).status_code == 403
    assert (await api.operator.post("/admin/dead-letters/discard", json=selection)).status_code == 403
    assert (await api.admin.post("/admin/dead-letters/discard", json=selection)).json() == {
        "discarded": 0,
        "refused": [],
        "more": False,
    }


# ---- replaying -------------------------------------------------------------------------------------------------------


async def test_200_dead_letters_of_a_fingerprint_are_replayed_at_20_a_second(api: Api) -> None:
    ids = await dead(api, 200)
    [other] = await dead(api, 1, how="another way")
    Mood.good = True
    selection = {"fingerprint": await fingerprint_of(api, ids[0]), "rate": 20}

    answer = await api.operator.post("/admin/dead-letters/replay", json=selection)

    assert answer.status_code == 202
    operation = await ended(api, answer.json())
    assert operation.status is TaskStatus.COMPLETED
    assert (operation.result["total"], operation.result["replayed"], operation.result["refused"]) == (200, 200, 0)
    await until(lambda: started(200), "the runs")
    tasks = (await api.store.tasks.get_many(ids)).values()
    lines = [line for task in tasks for line in task.history if line.event == "replayed"]
    assert {line.reason for line in lines} == {"by the-operator"}
    # As their history has it: 200 take ten seconds or longer, and whatever was held up, no second sees a burst.
    times = sorted(line.at.timestamp() for line in lines)
    assert len(times) == 200
    assert times[-1] - times[0] >= 9.5
    assert max(sum(begin <= at < begin + 1 for at in times) for begin in times) <= 26
    assert (await api.client.get(other)).status is TaskStatus.FAILED


async def started(count: int) -> bool:
    return len(Mood.started) >= count


async def test_a_canary_whose_first_five_fail_stops_there(api: Api) -> None:
    ids = await dead(api, 20)
    selection = {"taskType": "api.moody", "rate": 1000, "first": 5, "stopAbove": 0.2}

    answer = await api.operator.post("/admin/dead-letters/replay", json=selection)

    operation = await ended(api, answer.json())
    assert operation.result["stopped"].endswith("of the first 5 failed again")
    assert (operation.result["replayed"], len(operation.result["canary"])) == (5, 5)
    touched = [task.id for task in (await api.store.tasks.get_many(ids)).values() if len(task.history) > 1]
    assert set(touched) == set(operation.result["canary"])
    assert len(Mood.started) <= 5


async def test_a_canary_that_does_well_is_followed_by_the_rest(api: Api) -> None:
    ids = await dead(api, 20)
    Mood.good = True
    selection = {"taskType": "api.moody", "rate": 1000, "first": 5}

    operation = await ended(api, (await api.operator.post("/admin/dead-letters/replay", json=selection)).json())

    assert (operation.result["replayed"], operation.result["canaryFailed"]) == (20, 0)
    assert "stopped" not in operation.result or operation.result["stopped"] is None
    for task_id in ids:
        assert (await api.client.wait(task_id)).status is TaskStatus.COMPLETED


async def test_a_replay_that_is_cancelled_stops_and_one_that_was_cut_short_goes_on(api: Api) -> None:
    await dead(api, 20)
    Mood.good = True
    slow = {"taskType": "api.moody", "rate": 2}
    operation = (await api.operator.post("/admin/dead-letters/replay", json=slow)).json()["operation"]["id"]
    await until(lambda: started(1), "the first run")

    answer = await api.operator.post(f"/admin/tasks/{operation}/cancel")

    assert answer.status_code == 200
    assert (await api.client.wait(operation, "10s")).status is TaskStatus.CANCELLED
    assert len(Mood.started) < 10
    left = await api.store.dead.count(DeadFilter(), 100)
    rest = await ended(api, (await api.operator.post("/admin/dead-letters/replay", json={**slow, "rate": 100})).json())
    assert rest.result["replayed"] == left


async def test_a_dry_run_changes_nothing(api: Api) -> None:
    ids = await dead(api, 12)
    before = await api.store.tasks.get_many(ids)

    selection = {"taskType": "api.moody", "dryRun": True}
    replay = await api.operator.post("/admin/dead-letters/replay", json=selection)
    discard = await api.admin.post("/admin/dead-letters/discard", json={**selection, "reason": "r"})
    by_id = await api.operator.post("/admin/dead-letters/replay", json={"ids": [ids[0], "nothing"], "dryRun": True})

    assert (replay.status_code, discard.status_code) == (200, 200)
    for answer in (replay, discard):
        assert answer.json()["matches"]["count"] == 12
        assert len(answer.json()["matches"]["sample"]) == 10
    matches = by_id.json()["matches"]
    assert (matches["count"], matches["refused"]) == (1, [{"id": "nothing", "problem": "there is no such task"}])
    assert await api.store.tasks.get_many(ids) == before
    assert (await api.viewer.get("/admin/tasks", params={"type": "verger.replay"})).json()["tasks"] == []


async def test_ids_that_are_no_dead_letters_are_a_conflict(api: Api) -> None:
    answer = await api.operator.post("/admin/dead-letters/replay", json={"ids": ["nothing"]})

    assert answer.status_code == 409
    assert "nothing: there is no such task" in answer.json()["detail"]


# ---- with another body -----------------------------------------------------------------------------------------------


async def test_one_is_replayed_with_another_body_that_fits_the_model(api: Api) -> None:
    [task_id] = await dead(api, 1)
    Mood.good = True

    wrong = await api.operator.post("/admin/dead-letters/replay", json={"ids": [task_id], "taskBody": {"n": "x"}})
    right = await api.operator.post("/admin/dead-letters/replay", json={"ids": [task_id], "taskBody": {"n": 77}})

    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["field"] == "taskBody.n"
    assert right.status_code == 200
    assert right.json()["task"]["taskBody"] == {"n": 77}
    task = await api.client.wait(task_id)
    assert (task.status, task.result) == (TaskStatus.COMPLETED, {"n": 77})
    [line] = [line for line in task.history if line.event == "replayed"]
    assert line.reason == 'with another body, by the-operator: {"n": 0} → {"n": 77}'
    [entry] = [each for each in (await api.admin.get("/admin/audit")).json()["entries"] if "edit" in each["action"]]
    assert (entry["who"], entry["target"]) == ("the-operator", task_id)
    assert (entry["before"], entry["after"]) == ({"edited": {"n": 0}}, {"edited": {"n": 77}})


# ---- discarding ------------------------------------------------------------------------------------------------------


async def test_a_discard_keeps_the_record_with_its_reason(api: Api) -> None:
    ids = await dead(api, 3)

    answer = await api.admin.post(
        "/admin/dead-letters/discard", json={"fingerprint": await fingerprint_of(api, ids[0]), "reason": "too old"}
    )

    assert answer.json() == {"discarded": 3, "refused": [], "more": False}
    for task_id in ids:
        task = await api.client.get(task_id)
        assert (task.status, task.reason) == (TaskStatus.CANCELLED, "discarded")
        assert task.history[-1].reason == "too old (by the-admin)"
        assert task.last_error is not None
    again = await api.admin.post("/admin/dead-letters/discard", json={"ids": [ids[0], "nothing"], "reason": "twice"})
    assert again.json()["discarded"] == 0
    assert [refusal["problem"] for refusal in again.json()["refused"]] == [
        "is cancelled, no dead letter",
        "there is no such task",
    ]
    actions = [entry["action"] for entry in (await api.admin.get("/admin/audit")).json()["entries"]]
    assert actions.count("dead_letter.discard") == 2


async def test_messages_that_were_no_tasks_are_published_once_and_are_no_canaries(api: Api) -> None:
    for number in range(3):
        await api.app.broker.publish([Publication("api.moody", b'{"n": %d, ' % number)])

    async def kept(count: int) -> bool:
        return await api.store.dead.count(DeadFilter(), 10) == count

    await until(lambda: kept(3), "the dead letters")
    ids = await dead(api, 2)
    Mood.good = True

    selection = {"taskType": "api.moody", "first": 3, "rate": 1000}
    operation = await ended(api, (await api.operator.post("/admin/dead-letters/replay", json=selection)).json())

    assert set(operation.result["canary"]) == set(ids)
    assert (operation.result["replayed"], operation.result["total"]) == (5, 5)
    # They are no better than before, so each dies once more.
    await until(lambda: kept(6), "their second death")
