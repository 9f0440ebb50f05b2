"""The examples do what the documentation says of them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
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
from tests.actors.families import Family, connect
from tests.brokers import Inbox

EXAMPLES = Path(__file__).parent.parent / "examples"
PUBLISHER = EXAMPLES / "publishers" / "publish.py"


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


async def test_old_drafts_expire_for_every_tenant_and_the_others_stay(mongo_url: str, database: str) -> None:
    client = connect(mongo_url)
    drafts = client[database].drafts
    now = datetime.now(UTC)
    await drafts.insert_many(
        [
            {"_id": f"{tenant}-{days}", "tenantId": tenant, "changedAt": now - timedelta(days=days)}
            for tenant in ("a", "b")
            for days in range(0, 180, 2)
        ]
    )
    family = Family(("examples.drafts",), mongo_url, client[database])

    refused = await family.task("drafts.expire", {"maxDeleteRatio": 0.3})
    meant = await family.run("drafts.expire", {"dryRun": True})
    done = await family.run("drafts.expire", {"batchSize": 7})
    again = await family.run("drafts.expire")

    assert refused.last_error is not None
    assert "refused to delete 90 of 180 drafts" in refused.last_error.message
    assert (meant, done) == ({"scanned": 90, "deleted": 0}, {"scanned": 90, "deleted": 90})
    assert again == {"scanned": 0, "deleted": 0}
    assert await drafts.count_documents({}) == 90
    client.close()


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


def test_the_page_on_maintenance_actors_shows_the_example_as_it_is() -> None:
    source = (EXAMPLES / "drafts.py").read_text()
    page = (EXAMPLES.parent / "docs/actors/write-your-own.md").read_text()
    said = [line for block in page.split("```python\n")[1:] for line in block.split("```")[0].splitlines()]

    assert [line for line in said if line not in source.splitlines()] == []
