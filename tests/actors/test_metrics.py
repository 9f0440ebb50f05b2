"""What a running process counts and measures, on real servers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.composition import App, Role
from actors.scheduler.watch import Watch
from actors.testing import Verger, sandbox
from schemas.base import to_instant
from schemas.schedule import Schedule
from service import backlog
from service.backlog import Backlog
from service.broker.port import Publication
from tests.actors.probing import probed

SECONDS = 60.0
TYPE = "test.noop"


async def read(app: App) -> dict[str, float]:
    """``name{label values}`` → value, as a scraper reads them."""
    page = (await app.page.make()).decode()
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.fixture
async def verger(mongo_url: str) -> AsyncIterator[Verger]:
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url) as verger:
        yield verger


@pytest.fixture(autouse=True)
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(backlog, "PATIENCE_SECONDS", SECONDS)


async def test_ends_are_counted_by_type_and_outcome_and_runs_and_waits_are_measured(verger: Verger) -> None:
    for _ in range(3):
        await verger.client.enqueue(TYPE, {})
    await verger.client.enqueue("test.fails", {}, max_attempts=2)
    await verger.client.enqueue("test.steers", {"signal": "discard"})
    await verger.client.enqueue("test.work", {"seconds": 0.3})
    await verger.run_until_idle()
    await verger.advance(seconds=5)
    await verger.run_until_idle()

    found = await read(verger.app)

    outcomes = {key: value for key, value in found.items() if key.startswith("verger_tasks_finished_total")}
    assert outcomes == {
        "verger_tasks_finished_total['success', 'test.noop']": 3,
        "verger_tasks_finished_total['retry', 'test.fails']": 1,
        "verger_tasks_finished_total['dead_letter', 'test.fails']": 1,
        "verger_tasks_finished_total['cancelled', 'test.steers']": 1,
        "verger_tasks_finished_total['success', 'test.work']": 1,
    }
    assert found["verger_dead_letters_total['test.fails']"] == 1
    assert found["verger_task_run_seconds_count['test.noop']"] == 3
    assert 0.3 <= found["verger_task_run_seconds_sum['test.work']"] < 10
    assert found["verger_task_wait_seconds_count['test.noop']"] == 3
    assert found["verger_slots['test.batches']"] == 4
    assert found["verger_tasks_running['test.work']"] == 0


async def test_what_runs_is_seen_while_it_runs_and_a_request_that_was_taken_is_counted(verger: Verger) -> None:
    task = await verger.client.enqueue("test.work", {"seconds": 60}, name="only")
    worker = verger.app.worker
    assert worker is not None
    async with asyncio.timeout(SECONDS):
        while task.id not in worker.runs:
            await asyncio.sleep(0.01)
    message = b'{"taskBody": {"seconds": 60}, "taskName": "only"}'
    await verger.app.broker.publish([Publication("test.work", message)])
    async with asyncio.timeout(SECONDS):
        while "verger_tasks_deduplicated_total['test.work']" not in (found := await read(verger.app)):
            await asyncio.sleep(0.01)

    assert found["verger_tasks_running['test.work']"] == 1
    assert found["verger_tasks_deduplicated_total['test.work']"] == 1
    await verger.client.cancel(task.id, force=True)
    await verger.run_until_idle()


async def test_messages_of_types_that_strangers_make_up_are_one_label(verger: Verger) -> None:
    await verger.app.broker.publish([Publication(f"made.up-{number}", b"no task") for number in range(20)])
    async with asyncio.timeout(SECONDS):
        while "verger_dead_letters_total['@other']" not in (found := await read(verger.app)):
            await asyncio.sleep(0.01)
        while found["verger_dead_letters_total['@other']"] < 20:
            await asyncio.sleep(0.01)
            found = await read(verger.app)

    assert not [key for key in found if "made.up" in key]


async def test_fires_skips_and_freshness_of_a_schedule(verger: Verger) -> None:
    now = verger.clock.now()
    schedule = Schedule(
        id="hourly",
        task_type=TYPE,
        schedule="@every 1h",
        next_fire_at=to_instant(now),
        created_at=to_instant(now),
        revision=0,
    )
    await verger.app.store.schedules.write([schedule])
    verger.app.wake()
    async with asyncio.timeout(SECONDS):
        while "verger_schedule_fires_total['hourly']" not in (found := await read(verger.app)):
            await asyncio.sleep(0.01)
    assert found["verger_schedule_fires_total['hourly']"] == 1
    assert found["verger_schedule_fire_lag_seconds_count[]"] == 1
    await verger.run_until_idle()

    await verger.advance(hours=5)
    await verger.run_until_idle()
    await Watch(verger.app.store, verger.app.broker, verger.app.metrics).tick()
    found = await read(verger.app)

    assert found["verger_schedule_skipped_total['coalesced', 'hourly']"] >= 3
    assert found["verger_schedule_overdue['hourly']"] == 0
    succeeded = found["verger_schedule_last_success_timestamp_seconds['hourly']"]
    assert abs(succeeded - verger.clock.now().timestamp()) < 60


# ---- what waits ----------------------------------------------------------------------------------


async def test_the_backlog_is_the_age_of_the_stored_task_that_has_been_due_for_longest(
    mongo_url: str, amqp_url: str, database: str, prefix: str
) -> None:
    async with probed(mongo_url, amqp_url, database, prefix, [Role.SCHEDULER]) as one:
        await one.app.client.enqueue(TYPE, {}, delay="1h")
        assert (await read(one.app))[f"verger_backlog_seconds['{TYPE}']"] == 0

        first = await one.app.client.enqueue(TYPE, {})
        await asyncio.sleep(1.5)
        await one.app.client.enqueue(TYPE, {})
        found = await read(one.app)

        age = (one.app.store.clock.now() - first.retry_at).total_seconds()
        assert 1.5 <= found[f"verger_backlog_seconds['{TYPE}']"] <= age
        assert found["verger_backlog_seconds['test.work']"] == 0
        assert found[f"verger_queue_messages['{TYPE}']"] >= 2


async def test_the_backlog_of_messages_from_outside_grows_until_a_worker_has_met_them(
    mongo_url: str, amqp_url: str, database: str, prefix: str
) -> None:
    async with probed(mongo_url, amqp_url, database, prefix, [Role.SCHEDULER]) as one:
        app = one.app
        message = Publication(TYPE, b'{"taskBody": {}}')
        assert await app.broker.publish([message] * 5) == [True] * 5
        async with asyncio.timeout(SECONDS):
            while (await read(app))[f"verger_queue_messages['{TYPE}']"] < 5:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2)

        assert (await read(app))[f"verger_backlog_seconds['{TYPE}']"] >= 2
        states = await app.store.upkeep.type_states()
        assert states[TYPE].marker_sent_at is not None

        async with probed(mongo_url, amqp_url, database, prefix, [Role.WORKER]), asyncio.timeout(SECONDS):
            while (await read(app))[f"verger_backlog_seconds['{TYPE}']"] > 0:
                await asyncio.sleep(0.05)
        assert (await read(app))[f"verger_queue_messages['{TYPE}']"] == 0


async def test_a_backlog_that_nobody_works_off_gets_one_marker(
    mongo_url: str, amqp_url: str, database: str, prefix: str
) -> None:
    async with probed(mongo_url, amqp_url, database, prefix, [Role.SCHEDULER]) as one:
        app = one.app
        await app.broker.publish([Publication(TYPE, b'{"taskBody": {}}')])
        looking = Backlog(app.store, app.broker, [TYPE])
        for _ in range(10):
            await looking.look()
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)

        assert await app.broker.depth(TYPE) <= 2
        await looking.close()


async def test_the_servers_are_looked_at_once_however_many_scrape(
    mongo_url: str, amqp_url: str, database: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "LOOK_SECONDS", 60.0)
    async with probed(mongo_url, amqp_url, database, prefix, [Role.SCHEDULER]) as one:
        looking = Backlog(one.app.store, one.app.broker, [TYPE])
        answers = await asyncio.gather(*(looking.look() for _ in range(50)))

        assert all(answer is answers[0] for answer in answers)


async def test_errors_and_reconnects_of_the_broker_are_counted(
    mongo_url: str, amqp_url: str, database: str, prefix: str, rabbit_server: object
) -> None:
    async with probed(mongo_url, amqp_url, database, prefix, [Role.WORKER]) as one:
        before = await read(one.app)
        assert before["verger_broker_errors_total[]"] == before["verger_broker_reconnects_total[]"] == 0

        link = one.app.broker._publishing  # type: ignore[attr-defined]
        link.reset(link.require(), "the test says so")
        async with asyncio.timeout(SECONDS):
            while (found := await read(one.app))["verger_broker_reconnects_total[]"] < 1:
                await asyncio.sleep(0.05)

        assert found["verger_broker_errors_total[]"] >= 1
        one.app.broker._events.dropped = 41  # type: ignore[attr-defined]
        assert (await read(one.app))["verger_events_dropped_total[]"] == 41


async def test_the_page_is_made_although_the_store_is_away(
    mongo_url: str, amqp_url: str, database: str, prefix: str, mongo_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with probed(mongo_url, amqp_url, database, prefix, [Role.SCHEDULER]) as one:
        monkeypatch.setattr(backlog, "PATIENCE_SECONDS", 0.2)
        mongo_server.freeze()  # type: ignore[attr-defined]

        page = await one.http.get("/metrics")

        assert page.status_code == 200
        assert 'verger_server_up{server="broker"} 1.0' in page.text
        assert 'verger_server_up{server="store"} 0.0' in page.text
        assert "verger_backlog_seconds{" not in page.text  # rather none than an old one
        mongo_server.thaw()  # type: ignore[attr-defined]
