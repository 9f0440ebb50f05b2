"""What a scheduler finishes that another left open."""

from datetime import timedelta

from actors.scheduler.fire import FIRING_SECONDS, TAKEN_TOGETHER
from service.fires import fire_id
from service.store.port import FireClaim
from tests.service.conftest import Engine


async def test_p18_all_that_one_lost_answer_left_open_is_finished_in_one_look(engine: Engine) -> None:
    due = engine.clock.now() + timedelta(minutes=1)
    kept = [await engine.keep(f"s{n}", next_fire_at=due, args={"n": n}) for n in range(2 * TAKEN_TOGETHER + 1)]
    engine.clock.advance(timedelta(minutes=2))
    following = engine.clock.now() + timedelta(hours=1)
    left = await engine.store.schedules.begin_fires([FireClaim(each, due, following) for each in kept], "gone")
    assert len(left) == len(kept)
    engine.clock.advance(timedelta(seconds=FIRING_SECONDS + 1))

    await engine.fire()

    assert await engine.store.schedules.open_fires() == []
    assert len(await engine.tasks(*(fire_id(each.id, due) for each in kept))) == len(kept)
    assert {each.last_fire_at for each in await engine.store.schedules.all()} == {due}
