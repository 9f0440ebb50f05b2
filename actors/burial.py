"""What happens to a message that is no task: kept, then published as a dead letter."""

import structlog

from service.broker.port import Broker, Delivery
from service.envelope import dead_letter, invalid_task
from service.errors import InvalidMessage, PayloadRefused
from service.log_events import LogEvent
from service.metrics import Metrics
from service.store.port import RelayMove, Store

log = structlog.get_logger()


async def bury(
    store: Store, broker: Broker, metrics: Metrics, delivery: Delivery, error: InvalidMessage | PayloadRefused
) -> None:
    """Afterwards the delivery may be acknowledged; burying it again changes nothing. Raises StoreUnavailable."""
    task = invalid_task(delivery, error, store.clock.now())
    try:
        new = await store.upkeep.put_dead(task)
    except PayloadRefused:
        # Strange headers must not keep a strange message from its grave.
        payload = task.payload and task.payload.model_copy(update={"headers": {}})
        new = await store.upkeep.put_dead(task.model_copy(update={"payload": payload}))
    if not new:
        return
    metrics.dead_letters.add(metrics.type(task.task_type))
    # Without the value: it is part of what a stranger sent. The dead letter has it.
    said = f"{error.field} {error.problem}"
    log.error(LogEvent.MESSAGE_REFUSED, task_type=task.task_type, id=task.id, error=said, reason=task.reason)
    if (await broker.publish([dead_letter(task)]))[0]:
        await store.upkeep.relay_move([RelayMove(task, None)])
