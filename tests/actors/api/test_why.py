"""Why a task did, or did not, run: asked over HTTP, of what really happened."""

import asyncio
from typing import Any

from schemas.schedule import Schedule
from tests.actors.api.conftest import Api

SECONDS = 60.0


async def why(api: Api, task_id: str) -> dict[str, Any]:
    answer = await api.viewer.get(f"/admin/tasks/{task_id}/why")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_a_paused_type_is_told_with_who_paused_it(api: Api) -> None:
    await api.operator.post("/admin/task-types/api.echo/pause")
    task = await api.client.enqueue("api.echo", {})

    told = await why(api, task.id)

    assert told["status"] == "pending"
    assert told["now"][0].startswith("The type api.echo is paused since ")
    assert ", by the-operator: " in told["now"][0]
    await api.operator.post("/admin/task-types/api.echo/resume")
    await api.client.wait(task.id)
    assert "completed" in (await why(api, task.id))["now"][0]


async def test_an_id_that_was_deduplicated_names_the_task_that_stands_for_it(api: Api) -> None:
    await api.client.enqueue("api.echo", {}, id="first", name="only", delay="1h")
    await api.client.enqueue("api.echo", {}, id="second", name="only")

    told = await why(api, "second")

    assert told["status"] is None
    assert told["now"] == ["It was not stored: first, which is pending, stands for it."]
    assert any("second was asked for" in step["text"] for step in (await why(api, "first"))["story"])


async def test_a_fire_that_was_skipped_since_the_last_run_still_goes_on(api: Api) -> None:
    body = {"stubborn": True}
    schedule = Schedule(
        id="often", task_type="api.slow", task_body=body, schedule="@every 1s", next_fire_at=api.store.clock.now()
    )
    await api.store.schedules.write([schedule])
    await api.client.schedules_changed()

    async def skipped() -> Schedule:
        async with asyncio.timeout(SECONDS):
            while True:
                found = await api.store.schedules.get("often")
                assert found is not None
                if any(skip.reason == "overlap" for skip in found.recent_skips):
                    return found
                await asyncio.sleep(0.05)

    [skip, *_] = (await skipped()).recent_skips

    task_id = f"fire:often@{skip.since.isoformat().replace('+00:00', 'Z')}"
    told = await why(api, task_id)

    assert told["status"] is None
    assert "the previous run was still going: fire:often@" in told["story"][0]["text"]
    running = await why(api, str(skip.by))
    assert running["status"] == "running"
    assert running["story"][0]["text"].startswith("Schedule often fired for ")


async def test_a_dead_letter_and_an_unknown_id_are_explained(api: Api) -> None:
    task = await api.client.enqueue("api.fails", {}, max_attempts=1)
    await api.client.wait(task.id)

    told = await why(api, task.id)

    assert told["now"][0].startswith("It is a dead letter since ")
    assert "RuntimeError: it never works in handlers.py:fails" in told["now"][0]
    assert (await why(api, "nothing/like/it"))["now"][0] == "There is no such task."
    assert (await api.stranger.get("/admin/tasks/x/why")).status_code == 401
