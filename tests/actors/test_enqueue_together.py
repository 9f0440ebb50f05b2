"""Concurrent enqueues share their writes; each caller still gets its own answer."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from actors.testing import sandbox
from schemas.task import Task, TaskStatus
from service.errors import InvalidInput
from service.store.mongo.tasks import MongoTasks
from service.store.port import Created


async def test_many_callers_at_once_share_inserts_and_each_gets_its_own_task_or_error(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    create = MongoTasks.create

    async def counted(self: MongoTasks, tasks: Sequence[Task], **options: Any) -> list[Created]:
        sizes.append(len(tasks))
        return await create(self, tasks, **options)

    async with sandbox(["tests.handlers"], mongodb_url=mongo_url) as verger:
        monkeypatch.setattr(MongoTasks, "create", counted)
        enqueue = verger.client.enqueue
        answers = await asyncio.gather(
            *(enqueue("test.noop", {"n": n}, id=f"n-{n}") for n in range(100)),
            enqueue("test.noop", {}, id="n-7"),
            enqueue("test.noop", {}, name="only"),
            enqueue("test.noop", {}, name="only"),
            enqueue("test.noop", {}, max_attempts=0),
            return_exceptions=True,
        )

        assert isinstance(answers.pop(), InvalidInput)
        tasks = [answer for answer in answers if isinstance(answer, Task)]
        assert [task.id for task in tasks[:101]] == [*(f"n-{n}" for n in range(100)), "n-7"]
        assert [task.task_body for task in tasks[:100]] == [{"n": n} for n in range(100)]
        assert tasks[100].task_body == {"n": 7}  # the one that was stored
        assert tasks[101].id == tasks[102].id
        assert len(sizes) <= 10

        await verger.run_until_idle()
        assert {(await verger.client.get(task.id)).status for task in tasks} == {TaskStatus.COMPLETED}
