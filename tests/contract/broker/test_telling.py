"""Control messages and events."""

import asyncio
from datetime import UTC, datetime

from schemas.event import ControlCommand, ControlMessage, Event, EventName
from service.broker.port import Broker
from tests.brokers import SECONDS
from tests.contract.broker.conftest import TYPES, Adapter

CANCEL = ControlMessage(command=ControlCommand.CANCEL, task_id="7", task_type="report", force=True)
STARTED = Event(event=EventName.TASK_STARTED, at=datetime(2026, 1, 1, tzinfo=UTC), task_id="7", detail={"attempt": 1})


async def hear(told: "asyncio.Queue[ControlMessage]") -> ControlMessage:
    return await asyncio.wait_for(told.get(), SECONDS)


async def test_a_control_message_reaches_every_callback_of_its_own_process(adapter: Adapter) -> None:
    before, after = asyncio.Queue[ControlMessage](), asyncio.Queue[ControlMessage]()
    broker = adapter.make()
    adapter.made.append(broker)
    broker.on_control(before.put_nowait)
    await broker.open(TYPES)
    broker.on_control(after.put_nowait)

    await broker.send_control(CANCEL)

    assert await hear(before) == await hear(after) == CANCEL


async def test_a_control_message_reaches_other_processes_where_there_are_any(adapter: Adapter) -> None:
    told = asyncio.Queue[ControlMessage]()
    sender, receiver = await adapter.open(), await adapter.open()
    receiver.on_control(told.put_nowait)

    await sender.send_control(CANCEL)
    await receiver.send_control(ControlMessage(command=ControlCommand.RESUME))

    heard = await hear(told)
    assert heard == (CANCEL if adapter.shared else ControlMessage(command=ControlCommand.RESUME))


async def test_control_and_events_on_a_closed_broker_are_lost_in_silence(adapter: Adapter) -> None:
    closed = await adapter.open()
    await closed.close()

    await closed.send_control(CANCEL)
    closed.emit(lambda: STARTED)


async def test_emitting_neither_waits_nor_drops_what_fits(broker: Broker) -> None:
    for _ in range(100):
        broker.emit(lambda: STARTED)

    assert broker.events_dropped == 0
