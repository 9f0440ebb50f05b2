"""Tasks over HTTP: trigger, list, cancel, retry; and what is kept of who did it."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from schemas.task import Task, TaskStatus
from service.envelope import new_task
from service.store.port import TaskFilter
from tests.actors.api.conftest import Api
from tests.brokers import eventually


async def ended(api: Api, task_id: str) -> Task:
    return await api.client.wait(task_id, "20s")


async def audit(api: Api) -> list[dict[str, Any]]:
    """What was done, oldest first, without when."""
    entries = (await api.admin.get("/admin/audit")).json()["entries"]
    return [{key: entry[key] for key in ("who", "action", "target", "before", "after")} for entry in entries[::-1]]


# ---- trigger ---------------------------------------------------------------------------------------------------------


async def test_a_triggered_task_runs(api: Api) -> None:
    answer = await api.operator.post("/admin/tasks/api.echo", json={"text": "a", "times": 3})

    said = answer.json()
    assert (answer.status_code, said["created"]) == (201, True)
    assert (await ended(api, said["task"]["id"])).result == {"text": "aaa"}
    shown = (await api.viewer.get(f"/admin/tasks/{said['task']['id']}")).json()
    assert (shown["status"], shown["taskType"]) == ("completed", "api.echo")
    assert await audit(api) == [
        {
            "who": "the-operator",
            "action": "task.trigger",
            "target": said["task"]["id"],
            "before": None,
            "after": {"taskType": "api.echo", "created": True},
        }
    ]


@pytest.mark.parametrize("task_id", ["a/b", "a/cancel", "line\nend", "?#%", "..", "ü ☃"])
async def test_any_id_is_reached(api: Api, task_id: str) -> None:
    await api.store.tasks.create(
        [new_task(None, task_type="elsewhere", body={}, now=api.store.clock.now(), id=task_id)]
    )

    path = f"/admin/tasks/{quote(task_id, safe='')}".replace("..", "%2E%2E")
    assert (await api.viewer.get(path)).json()["id"] == task_id
    assert (await api.operator.post(f"{path}/cancel")).json()["status"] == "cancelled"


@pytest.mark.parametrize("how", [{"params": {"id": "one/two"}}, {"headers": {"Idempotency-Key": "one/two"}}])
async def test_the_same_id_again_changes_nothing(api: Api, how: dict[str, Any]) -> None:
    first = await api.operator.post("/admin/tasks/api.echo", **how)
    again = await api.operator.post("/admin/tasks/api.echo", json={"times": 2}, **how)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["created"] is False
    assert again.json()["task"]["taskBody"] == {}
    assert [entry["after"]["created"] for entry in await audit(api)] == [True, False]


async def test_two_ids_are_refused(api: Api) -> None:
    answer = await api.operator.post("/admin/tasks/api.echo", params={"id": "a"}, headers={"Idempotency-Key": "b"})

    assert answer.status_code == 422
    assert await audit(api) == []


async def test_an_alias_reaches_its_type_and_everything_can_be_said(api: Api) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await api.operator.post(
        "/admin/tasks/Say It",
        params={"name": "n", "delay": "1h", "maxAttempts": 3, "timeout": "5m", "tenant": "t"},
        headers={"traceparent": trace},
    )

    task = await api.client.get(answer.json()["task"]["id"])
    assert (task.task_type, task.task_name, task.max_attempts) == ("api.echo", "n", 3)
    assert (task.timeout_seconds, task.tenant_id, task.traceparent) == (300, "t", trace)
    assert task.retry_at - task.created_at == timedelta(hours=1)


async def test_a_type_that_nobody_knows_is_not_found(api: Api) -> None:
    answer = await api.operator.post("/admin/tasks/api.ecko")

    assert answer.status_code == 404
    assert "api.echo" in answer.json()["detail"]
    assert (await api.client.find(TaskFilter(), limit=1)).tasks == []


# ---- list ------------------------------------------------------------------------------------------------------------


async def test_pages_are_stable_while_tasks_come_in(api: Api) -> None:
    for number in range(5):
        await api.client.enqueue("api.echo", id=f"t{number}", delay="1h")
    first = (await api.viewer.get("/admin/tasks", params={"limit": 2})).json()
    await api.client.enqueue("api.echo", id="new", delay="1h")

    second = (await api.viewer.get("/admin/tasks", params={"limit": 2, "cursor": first["cursor"]})).json()
    third = (await api.viewer.get("/admin/tasks", params={"limit": 2, "cursor": second["cursor"]})).json()

    found = [task["id"] for page in (first, second, third) for task in page["tasks"]]
    assert found == ["t4", "t3", "t2", "t1", "t0"]
    assert third["cursor"] is None


async def test_filters_select(api: Api) -> None:
    await api.client.enqueue("api.fails", {"why": "no (space) left"}, id="disk")
    await api.client.enqueue("api.fails", {"why": "No Route"}, id="net")
    await api.client.enqueue("api.echo", id="fine", tenant_id="t")
    times = [task.finished_at for task in [await ended(api, each) for each in ("disk", "net", "fine")]]
    assert None not in times
    created = (await api.client.get("net")).created_at.isoformat()

    async def ids(**params: str) -> list[str]:
        answer = await api.viewer.get("/admin/tasks", params=params)
        assert answer.status_code == 200, answer.text
        return sorted(task["id"] for task in answer.json()["tasks"])

    assert await ids(error="no (SPACE)") == ["disk"]
    assert await ids(error="RuntimeError", status="failed") == ["disk", "net"]
    assert await ids(error="no .* left") == []
    assert await ids(tenant="t") == ["fine"]
    assert await ids(type="Say It") == ["fine"]
    assert await ids(createdTo=created) == ["disk"]
    assert await ids(createdFrom=created, status="failed") == ["net"]
    assert await ids(finishedFrom=max(time for time in times if time is not None).isoformat()) != []
    assert await ids(finishedTo="2020-01-01T00:00:00Z") == []
    assert await ids(finishedFrom="2020-01-01T00:00:00Z", type="api.fails") == ["disk", "net"]
    assert await ids(schedule="nothing") == []


@pytest.mark.parametrize(
    "params",
    [
        {"createdFrom": "2026-01-02T00:00:00Z", "createdTo": "2026-01-01T00:00:00Z"},
        {"createdFrom": "2026-01-02T00:00:00"},
        {"cursor": "none"},
        {"error": ""},
        {"error": "a\nb"},
        {"limit": "1001"},
        {"type": "x" * 300},
    ],
    ids=str,
)
async def test_a_filter_that_cannot_be_is_refused(api: Api, params: dict[str, str]) -> None:
    assert (await api.viewer.get("/admin/tasks", params=params)).status_code == 422


# ---- cancel ----------------------------------------------------------------------------------------------------------


async def test_a_pending_task_is_cancelled(api: Api) -> None:
    await api.client.enqueue("api.echo", id="later", delay="1h")

    answer = await api.operator.post("/admin/tasks/later/cancel", json={"reason": "not today"})

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["history"][-1]["reason"] == "not today"
    after = {"status": "cancelled", "force": False, "reason": "not today"}
    assert [(entry["action"], entry["after"]) for entry in await audit(api)] == [("task.cancel", after)]


async def running(api: Api, **body: Any) -> str:
    task = await api.client.enqueue("api.slow", body)

    async def status() -> TaskStatus:
        return (await api.client.get(task.id)).status

    await eventually(status, TaskStatus.RUNNING)
    return task.id


async def test_a_running_task_is_asked_to_stop(api: Api) -> None:
    task_id = await running(api)

    answer = await api.operator.post(f"/admin/tasks/{task_id}/cancel")

    assert answer.status_code == 200
    assert answer.json()["cancelRequestedAt"] is not None
    assert (await ended(api, task_id)).status is TaskStatus.CANCELLED


async def test_force_interrupts_who_does_not_listen(api: Api) -> None:
    task_id = await running(api, stubborn=True)
    assert (await api.operator.post(f"/admin/tasks/{task_id}/cancel")).status_code == 200

    answer = await api.operator.post(f"/admin/tasks/{task_id}/cancel", json={"force": True})

    assert answer.json()["cancelForced"] is True
    assert (await ended(api, task_id)).status is TaskStatus.CANCELLED


async def test_a_finished_task_cannot_be_cancelled(api: Api) -> None:
    await api.client.enqueue("api.echo", id="done")
    before = await ended(api, "done")

    answer = await api.operator.post("/admin/tasks/done/cancel")

    assert answer.status_code == 409
    assert "completed" in answer.json()["detail"]
    assert await api.client.get("done") == before
    assert await audit(api) == []


async def test_what_is_not_there_cannot_be_cancelled_or_retried(api: Api) -> None:
    for action in ("cancel", "retry"):
        assert (await api.operator.post(f"/admin/tasks/nothing/{action}")).status_code == 404
    assert await audit(api) == []


# ---- retry -----------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_retried(api: Api) -> None:
    await api.client.enqueue("api.fails", id="a/b")
    await ended(api, "a/b")

    async def answer() -> int:
        return (await api.operator.post("/admin/tasks/a%2Fb/retry")).status_code

    # A conflict until it is on the dead-letter exchange.
    await eventually(answer, 200)

    entry = (await audit(api))[-1]
    assert (entry["action"], entry["target"], entry["before"]) == ("task.retry", "a/b", {"status": "failed"})
    task = await ended(api, "a/b")
    assert [line.reason for line in task.history if line.event == "replayed"] == ["by the-operator"]


async def test_only_a_dead_letter_is_retried(api: Api) -> None:
    await api.client.enqueue("api.echo", id="done")
    await ended(api, "done")

    assert (await api.operator.post("/admin/tasks/done/retry")).status_code == 409
