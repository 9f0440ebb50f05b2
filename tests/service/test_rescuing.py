"""What a scheduler does with claims that look stale because everybody slept."""

import asyncio
import time
from datetime import timedelta

import pytest

from actors.scheduler.rescue import Rescue
from schemas.task import TaskStatus
from service.metrics import Metrics
from service.settings import Settings
from service.store.port import Claimed, ClaimRequest
from tests.contract.store.steps import a_beat, beat
from tests.service.conftest import Engine

SLEPT = 45


@pytest.fixture
def rescue(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Rescue:
    """Ready at once."""
    settings = Settings()
    monkeypatch.setattr("actors.scheduler.rescue.MARGIN", -settings.heartbeat)
    return Rescue(engine.store, engine.broker, Metrics(), settings)


async def a_stale_claim(engine: Engine) -> Claimed:
    task = await engine.client.enqueue("report.build", {})
    [claimed] = await engine.store.claims.claim([ClaimRequest(task.id, None)], "w1")
    assert isinstance(claimed, Claimed)
    await engine.store.upkeep.rescue_workers(["w1"])
    return claimed


async def status(engine: Engine, claimed: Claimed) -> TaskStatus:
    return (await engine.client.get(claimed.task.id)).status


@pytest.mark.parametrize("what", ["nothing", "the machine slept", "the store's clock was set"])
@pytest.mark.parametrize("when", ["before the look", "during the look"])
async def test_p9_after_a_sleep_of_all_nothing_is_rescued_before_workers_could_renew(
    engine: Engine, rescue: Rescue, monkeypatch: pytest.MonkeyPatch, what: str, when: str
) -> None:
    claimed = await a_stale_claim(engine)

    def happens() -> None:
        if what == "the machine slept":
            read = time.clock_gettime
            monkeypatch.setattr(time, "clock_gettime", lambda clock: read(clock) + SLEPT)
        elif what == "the store's clock was set":
            engine.clock.advance(timedelta(seconds=SLEPT))

    look = engine.store.upkeep.stale_claims

    async def looks(stale_after: timedelta, limit: int) -> object:
        found = await look(stale_after, limit)
        if when == "during the look":
            happens()
        return found

    monkeypatch.setattr(engine.store.upkeep, "stale_claims", looks)
    if when == "before the look":
        happens()

    await rescue.tick()

    if what == "nothing":
        async with asyncio.timeout(30):  # a look that took long counts as an outage
            while await status(engine, claimed) is TaskStatus.RUNNING:
                await rescue.tick()
        assert await status(engine, claimed) is TaskStatus.PENDING
        return
    assert await status(engine, claimed) is TaskStatus.RUNNING
    when = ""
    assert not (await beat(engine.store, a_beat(claimed.task))).lost
    for _ in range(3):
        await rescue.tick()
    assert await status(engine, claimed) is TaskStatus.RUNNING
