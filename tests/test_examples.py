"""The examples do what the documentation says of them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from actors.testing import Verger, sandbox
from schemas.task import Task, TaskStatus
from service.broker.names import Names
from service.broker.rabbitmq import RabbitBroker
from service.clock import SystemClock
from service.envelope import read
from service.payload import MAX_BYTES
from service.registry import load
from tests.brokers import Inbox

PUBLISHER = Path(__file__).parent.parent / "examples" / "publishers" / "publish.py"


@pytest.fixture
async def verger(mongo_url: str) -> AsyncIterator[Verger]:
    async with sandbox(["examples.jobs"], mongodb_url=mongo_url) as running:
        yield running


async def done(verger: Verger, task: Task) -> Task:
    await verger.run_until_idle()
    return await verger.client.get(task.id)


async def test_a_digest_is_built_in_batches(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("Build Digest", {"topic": "ada", "notes": 120}))

    assert (finished.status, finished.result) == (
        TaskStatus.COMPLETED,
        {"notes": 120, "begun_at": 0, "kept": True},
    )
    assert finished.checkpoint == 120
    assert finished.progress is not None
    assert (finished.progress.progress, finished.progress.done_count) == (1, 120)


async def test_a_letter_is_tried_again_discarded_or_dead(verger: Verger) -> None:
    busy = await verger.client.enqueue("letter.send", {"to": "ada@example.org", "busy": 1})
    nowhere = await verger.client.enqueue("letter.send", {"to": "ada@example.invalid"})
    nobody = await verger.client.enqueue("letter.send", {"to": "ada"})
    await verger.run_until_idle()
    await verger.advance(seconds=10)

    assert (await done(verger, busy)).attempt == 2
    assert (await done(verger, nowhere)).reason == "that domain has no mail"
    assert (await done(verger, nobody)).reason == "non_retryable"
    assert await verger.failed() == [f"letter.send {nobody.id}: non_retryable: 'ada' is no address"]


async def test_words_are_counted_in_a_thread(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("words.count", {"text": "a rose is a rose"}))

    assert finished.result == {"words": 5, "different": 3}


async def test_the_publisher_sends_what_a_worker_reads(amqp_url: str, prefix: str) -> None:
    names = Names(prefix)
    broker = RabbitBroker(amqp_url, names, SystemClock())
    await broker.open({"words.count": ()})
    inbox = Inbox()
    await broker.consume("words.count", 1, inbox)

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PUBLISHER),
        "words.count",
        json.dumps({"text": "one two"}),
        "from-outside",
        env={**os.environ, "AMQP_URL": amqp_url, "EXCHANGE": names.tasks},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    delivery = await inbox.one()
    await broker.close()

    assert (process.returncode, said) == (0, b"from-outside\n")
    handler = load(["examples.jobs"]).get("words.count")
    record = read(delivery, handler, datetime.now(UTC), MAX_BYTES).record
    assert record is not None
    assert (record.id, record.task_type, record.task_body) == ("from-outside", "words.count", {"text": "one two"})
