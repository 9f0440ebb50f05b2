"""The heartbeat: claims stay alive, and the worker hears what it must know."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from schemas.outcome import Completed, Released
from service.store.port import Beat, BeatReply, HeartbeatLink, Store
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import (
    HOUR,
    MINUTE,
    SECOND,
    a_beat,
    claim,
    look,
    new_id,
    now,
    running,
    settle,
    some_tasks,
)


@pytest.fixture
async def link(store: Store) -> AsyncIterator[HeartbeatLink]:
    link = store.claims.heartbeat()
    yield link
    link.close()


async def beat(link: HeartbeatLink, beat: Beat) -> BeatReply:
    return await asyncio.to_thread(link.beat, beat)


async def test_all_claims_are_renewed_in_one_beat(store: Store, link: HeartbeatLink) -> None:
    await store.tasks.create(some_tasks(20))
    tasks = [
        *await claim(store, *(f"t{number:03}" for number in range(10))),
        *await claim(store, *(f"t{number:03}" for number in range(10, 20))),
    ]
    await store.upkeep.rescue_workers(["w1"])

    reply = await beat(link, a_beat(*tasks))

    assert reply == BeatReply(frozenset(), frozenset(), frozenset())
    for task in tasks:
        renewed = (await look(store, task.id)).processing_at
        assert renewed is not None
        assert abs(renewed - now()) < 5 * SECOND


async def test_a_beat_renews_no_claim_it_does_not_name(store: Store, link: HeartbeatLink) -> None:
    mine, other = await running(store, "mine"), await running(store, "other")
    await store.upkeep.rescue_workers(["w1"])

    await beat(link, a_beat(mine))

    stale, _ = await store.upkeep.stale_claims(MINUTE, 10)
    assert [task.id for task in stale] == [other.id]


@pytest.mark.parametrize("way", ["rescued and claimed anew", "ended", "gone"])
async def test_p6_a_claim_that_was_lost_is_told_and_not_renewed(store: Store, link: HeartbeatLink, way: str) -> None:
    task = await running(store)
    if way == "ended":
        await settle(store, task, Completed())
    else:
        await settle(store, task, Released("shutdown"))
        await claim(store, "a", worker="w2")
    if way == "gone":
        task = task.model_copy(update={"id": "gone"})
    await store.upkeep.rescue_workers(["w2"])
    before = await look(store)

    reply = await beat(link, a_beat(task))

    assert reply.lost == {task.id}
    assert await look(store) == before


async def test_a_claim_of_another_token_of_mine_is_not_mine(store: Store, link: HeartbeatLink) -> None:
    lost = await running(store)
    await settle(store, lost, Released("shutdown"))
    await claim(store, "a")

    assert (await beat(link, a_beat(lost))).lost == {"a"}


async def test_a_cancel_is_heard(store: Store, link: HeartbeatLink) -> None:
    tasks = [await running(store, task_id) for task_id in ("a", "b")]
    await store.tasks.cancel("a", "not needed")

    reply = await beat(link, a_beat(*tasks))

    assert reply.cancel == {"a"}
    assert reply.lost == set()


async def test_a_forced_cancel_is_heard_as_one(store: Store, link: HeartbeatLink) -> None:
    tasks = [await running(store, task_id) for task_id in ("a", "b", "c")]
    await store.tasks.cancel("a", "now", force=True)
    await store.tasks.cancel("b", "please")
    await store.tasks.cancel("a", "please")  # to ask once more takes nothing back

    reply = await beat(link, a_beat(*tasks))

    assert reply.cancel == {"a", "b"}
    assert reply.forced == {"a"}


async def test_a_lost_claim_is_not_asked_to_stop_as_well(store: Store, link: HeartbeatLink) -> None:
    task = await running(store)
    await settle(store, task, Released("shutdown"))
    await claim(store, "a", worker="w2")
    await store.tasks.cancel("a", "not needed")

    reply = await beat(link, a_beat(task))

    assert reply.cancel == set()
    assert reply.lost == {"a"}


async def test_p12_the_newest_marker_counts(store: Store, link: HeartbeatLink) -> None:
    newest = now()

    await beat(link, a_beat(report=newest, mail=newest - HOUR))
    await beat(link, a_beat(report=newest - MINUTE))

    states = await store.upkeep.type_states()
    assert {name: state.marker_seen_at for name, state in states.items()} == {"report": newest, "mail": newest - HOUR}


async def test_p12_workers_that_report_a_new_type_at_once_do_not_fail(adapter: Adapter) -> None:
    links = [(await adapter.open()).claims.heartbeat() for _ in range(2)]
    try:
        for _ in range(10):
            name = new_id()
            await asyncio.gather(*(beat(link, a_beat(worker=name, **{name: now()})) for link in links))
    finally:
        for link in links:
            link.close()


async def test_a_beat_sets_the_clock(store: Store, link: HeartbeatLink) -> None:
    store.clock.set_from(now() - HOUR, 0, 0)

    await beat(link, a_beat())

    assert abs(store.clock.now() - now()) < 5 * SECOND


async def test_an_idle_worker_beats_too(store: Store, link: HeartbeatLink) -> None:
    assert await beat(link, a_beat()) == BeatReply(frozenset(), frozenset(), frozenset())
    assert [worker.id for worker in await store.workers.alive(now() - MINUTE)] == ["w1"]


async def test_a_link_may_be_closed_twice(store: Store) -> None:
    link = store.claims.heartbeat()
    link.close()
    link.close()
