"""What a broker and its publishers may do to messages: repeat them, disorder them, and fill them with nonsense."""

import json
import random

import pika
import pytest

from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check
from tests.faults.kit.record import Recorder

Message = tuple[str, bytes, pika.BasicProperties | None]


def work(task_id: str, **body: object) -> Message:
    return "fault.work", json.dumps({"id": task_id, "taskBody": body}).encode(), None


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
async def test_messages_repeated_and_out_of_order_run_each_task_once(fleet: Fleet, record: Recorder, seed: int) -> None:
    chance = random.Random(seed)
    ids = [f"message-{number}" for number in range(200)]
    foreign = [work(task_id, value=number) for number, task_id in enumerate(ids)] * 4
    chance.shuffle(foreign)
    await fleet.start("scheduler,worker")
    await fleet.start("worker")
    own = await fleet.enqueue(100)
    stored = pika.BasicProperties(headers={"verger-stored": 1}, delivery_mode=2)
    copies: list[Message] = [("fault.work", json.dumps({"id": task_id}).encode(), stored) for task_id in own * 3]
    chance.shuffle(copies)

    begun = fleet.now()
    fleet.publish(*foreign, *copies)
    await fleet.ended([*ids, *own])
    again = [*foreign[:200], *copies[:100]]
    fleet.publish(*again)
    await fleet.until(lambda: fleet.depth("fault.work") == 0, "the queue to drain")
    findings = await check(fleet, [*ids, *own])

    starts = fleet.ledger.lines("start")
    assert {line.fence for line in starts} == {1}
    assert len(starts) == len(ids) + len(own) + 1  # the sentinel
    record(
        "Messages",
        "each message four times, shuffled, and again after its task has ended (P4)",
        happened="each task ran once",
        bite=f"{len(foreign) + len(copies) + len(again)} confirmed publishes for {len(ids) + len(own)} tasks",
        findings=findings,
        recovery=fleet.recovery(begun, ids),
        seed=seed,
    )


@pytest.mark.long
async def test_a_flood_of_poison_does_not_hold_up_the_good_ones(fleet: Fleet, record: Recorder) -> None:
    chance = random.Random(7)
    poison: list[Message] = []
    for number in range(400):
        oversized = json.dumps({"id": f"big-{number}", "taskBody": {"padding": "x" * 300_000}}).encode()
        poison += [
            ("fault.work", b'{"id": "cut %d' % number, None),
            ("fault.work", json.dumps({"id": f"odd-{number}", "taskBody": {}, "retries": 3}).encode(), None),
            ("fault.work", json.dumps({"id": f"bad-{number}", "taskBody": {"seconds": "soon"}}).encode(), None),
            ("fault.fails", json.dumps({"id": f"fails-{number}", "taskBody": {}}).encode(), None),
        ]
        if number % 8 == 0:
            poison.append(("fault.work", oversized, None))
    good = [f"good-{number}" for number in range(200)]
    flood = [*poison, *(work(task_id) for task_id in good)]
    chance.shuffle(flood)
    worker = await fleet.start("scheduler,worker")

    begun = fleet.now()
    fleet.publish(*flood)
    await fleet.ended(good, 120)
    recovery = fleet.recovery(begun, good)
    await fleet.until(
        lambda: fleet.tasks.count_documents({"status": "failed", "relayAt": {"$exists": False}}) == len(poison),
        "every one to be a dead letter",
        120,
    )
    findings = await check(fleet, good)

    reasons = {task["reason"] for task in fleet.tasks.find({"status": "failed"}, {"reason": 1})}
    assert reasons == {"invalid_message", "payload_refused", "invalid_body", "exhausted"}
    assert worker.events("actor.crashed") == []
    assert len(fleet.take_dead_letters()) >= len(poison)
    record(
        "Messages",
        f"{len(poison)} poisonous messages among {len(good)} good ones: cut off, unknown fields, wrong bodies, "
        "oversized, always failing",
        happened="each is one dead letter, with its reason; no actor crashed",
        bite="as many dead letters in MongoDB, and on the dead-letter queue",
        findings=findings,
        recovery=recovery,
        seed=7,
    )
