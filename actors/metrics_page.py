"""The page of metrics: what the process has counted, and what waits for workers, read when it is asked for."""

import asyncio
from collections.abc import Callable

from actors.health import Health
from service.backlog import Backlog
from service.broker.port import Broker
from service.metrics import Metrics, render
from service.store.port import Store


class MetricsPage:
    """One for a process, whatever its roles."""

    def __init__(self, metrics: Metrics, store: Store, broker: Broker, backlog: Backlog | None, health: Health) -> None:
        """``backlog``: asked for by roles that look after queues."""
        self._metrics, self._store, self._broker, self._backlog = metrics, store, broker, backlog
        self._health = health
        self._sources: list[Callable[[], None]] = []

    def add(self, source: Callable[[], None]) -> None:
        """Call it before each page is made, to set gauges."""
        self._sources.append(source)

    async def make(self) -> bytes:
        """In Prometheus' text form."""
        metrics, broker = self._metrics, self._broker
        metrics.store_errors.take(self._store.errors)
        metrics.broker_errors.take(broker.errors)
        metrics.broker_reconnects.take(broker.reconnects)
        metrics.events_dropped.take(broker.events_dropped)
        for source in self._sources:
            source()
        metrics.server_up.replace({(server,): float(up) for server, up in (await self._health.servers()).items()})
        if self._backlog is not None:
            waiting = await self._backlog.look()
            metrics.queue_messages.replace({(task_type,): each.messages for task_type, each in waiting.items()})
            metrics.backlog.replace(
                {(task_type,): each.seconds for task_type, each in waiting.items() if not task_type.startswith("@")}
            )
        # Text of thousands of lines is not made in the loop.
        return await asyncio.to_thread(render, metrics)
