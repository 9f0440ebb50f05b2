"""Who is there, and which types are paused."""

import asyncio

from service.store.port import Store
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import HOUR, MINUTE, SECOND, a_beat, beat, now


async def test_a_worker_is_known_by_its_heartbeat(store: Store) -> None:
    await beat(store, a_beat(worker="w1"))
    await beat(store, a_beat(worker="w2"))

    workers = await store.workers.alive(now() - MINUTE)

    assert {worker.id for worker in workers} == {"w1", "w2"}
    [first] = [worker for worker in workers if worker.id == "w1"]
    told = a_beat(worker="w1").worker
    assert first.model_dump(exclude={"seen_at", "started_at"}) == told.model_dump(exclude={"seen_at", "started_at"})
    assert abs(first.seen_at - now()) < 5 * SECOND


async def test_a_worker_that_was_not_seen_for_long_is_not_there(store: Store) -> None:
    await beat(store, a_beat(worker="w1"))

    assert await store.workers.alive(now() + MINUTE) == []


async def test_a_worker_that_stops_is_forgotten(store: Store) -> None:
    await beat(store, a_beat(worker="w1"))
    await beat(store, a_beat(worker="w2"))

    await store.workers.forget("w1")
    await store.workers.forget("unknown")

    assert [worker.id for worker in await store.workers.alive(now() - MINUTE)] == ["w2"]


async def test_workers_that_are_gone_are_pruned(store: Store) -> None:
    await beat(store, a_beat(worker="w1"))

    assert await store.workers.prune(now() - HOUR) == 0
    assert await store.workers.prune(now() + HOUR) == 1
    assert await store.workers.alive(now() - HOUR) == []


async def test_a_type_is_paused_until_it_is_resumed(store: Store) -> None:
    assert await store.upkeep.type_states() == {}

    await store.upkeep.set_paused("report", True)
    await store.upkeep.take_marker("mail", now())
    assert (await beat(store, a_beat(worker="w1"))).paused == {"report"}

    await store.upkeep.set_paused("report", False)
    assert (await beat(store, a_beat(worker="w1"))).paused == set()
    assert {name: state.paused for name, state in (await store.upkeep.type_states()).items()} == {
        "report": False,
        "mail": False,
    }


async def test_a_pause_leaves_the_markers_alone(store: Store) -> None:
    sent = now()
    await store.upkeep.take_marker("report", sent)

    await store.upkeep.set_paused("report", True)

    state = (await store.upkeep.type_states())["report"]
    assert (state.paused, state.marker_sent_at) == (True, sent)


async def test_two_processes_pause_a_new_type_at_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()

    for number in range(10):
        await asyncio.gather(*(store.upkeep.set_paused(f"type{number}", True) for store in (one, other)))

    assert len(await one.upkeep.type_states()) == 10
