"""The real store and broker beside a model of the protocol: any order of steps, crashes, lost replies and wrong clocks
leaves both in the same state, and no step breaks a promise of docs/protocol.md."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from random import Random

import pytest

from tests.contract.store.wire import wire_to
from tests.faults.protocol.machine import Machine
from tests.faults.protocol.steps import Step, drawn, shortened
from tests.faults.protocol.world import World
from tests.servers import MongoServer, RabbitServer


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def world(
    mongo_server: MongoServer,
    rabbit_server: RabbitServer,
    database: str,
    prefix: str,
    runner: asyncio.Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    # After a lost connection the driver lets half a second pass before it looks at the server again.
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)
    with wire_to(mongo_server.port) as wire:
        world = World(mongo_server.url, wire, rabbit_server.url, database, prefix)
        runner.run(world.open())
        yield world
        runner.run(world.close())


WALKS, MANY_WALKS = 20, 60
STEPS = 100
MET = {"asked again", "claimed again", "deduplicated", "end changed", "refused", "rescued", "pruned", "relay refused"}
MET |= {"fire: created", "fire: live_key", "taken over", "edit refused after a fire"}
MET |= {"lost reply of update", "lost request of update"}
"""What walks must come across to be worth anything."""


def explore(world: World, runner: asyncio.Runner, seeds: Iterable[int]) -> None:
    def walk(steps: Sequence[Step]) -> None:
        Machine(world, runner.run).walk(steps)

    for seed in seeds:
        steps = drawn(Random(seed), STEPS)
        try:
            walk(steps)
        except AssertionError as error:
            fewest = shortened(walk, steps)
            error.add_note(f"seed {seed}; these steps are enough:\n" + "\n".join(map(str, fewest)))
            raise


def test_any_order_of_steps_and_faults_leaves_store_and_model_in_the_same_state(
    world: World, runner: asyncio.Runner
) -> None:
    explore(world, runner, range(WALKS))
    # What a walk comes across depends on the order in which the broker delivers.
    more = iter(range(WALKS + MANY_WALKS, WALKS + 2 * MANY_WALKS))
    while not set(+world.happened) >= MET:
        seed = next(more, None)
        assert seed is not None, f"never came across {sorted(MET - set(+world.happened))}"
        explore(world, runner, [seed])


@pytest.mark.long
def test_many_more_orders_of_steps(world: World, runner: asyncio.Runner) -> None:
    explore(world, runner, range(WALKS, WALKS + MANY_WALKS))
