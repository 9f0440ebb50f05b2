"""What there is, at a glance: workers and task types."""

from datetime import timedelta

from schemas.task_type import TaskTypeSummary
from schemas.worker import TaskTypeState, Worker
from service.registry import Registry
from service.store.port import Store

SEEN_WITHIN = timedelta(minutes=2)
"""A worker that was not heard of for longer is gone."""


async def alive_workers(store: Store) -> list[Worker]:
    """The workers that are there, the one heard of last first."""
    return await store.workers.alive(store.clock.now() - SEEN_WITHIN)


async def task_types(store: Store, registry: Registry, *, counted: bool = False) -> list[TaskTypeSummary]:
    """Every type that a loaded module handles, that is paused, that a worker consumes, or that has tasks; by name.

    The last only if ``counted``: that costs a key of an index for each task there is.
    """
    states, workers = await store.upkeep.type_states(), await alive_workers(store)
    counts = await store.tasks.counts() if counted else {}
    handlers = {handler.task_type: handler for handler in registry}
    consumed = {name for worker in workers for name in worker.task_types}
    paused = {name for name, state in states.items() if state.paused}
    found = []
    for name in sorted(handlers.keys() | paused | consumed | counts.keys()):
        handler, state = handlers.get(name), states.get(name, TaskTypeState(id=name))
        found.append(
            TaskTypeSummary(
                task_type=name,
                aliases=list(handler.aliases) if handler is not None else [],
                summary=handler.summary if handler is not None else "",
                known=handler is not None,
                paused=state.paused,
                paused_at=state.paused_at,
                paused_by=state.paused_by,
                slots=handler.concurrency if handler is not None else None,
                workers=sum(name in worker.task_types for worker in workers),
                counts=counts.get(name, {}) if counted else None,
            )
        )
    return found
