"""What a process counts and measures, and its names. docs/metrics.md is made from this.

Plain dictionaries: a count costs a third of a microsecond, of which there are several for each task. Each metric is
written by one thread; a page is made from what is there.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0),
)
"""Seconds: from what a small handler takes to what a long one does."""

OTHER = "@other"
"""The label of all types that no loaded module handles."""

Labels = tuple[str, ...]


class Metric:
    """One family: a value for each combination of labels."""

    kind = ""

    def __init__(self, name: str, meaning: str, labels: Labels = (), role: str = "all") -> None:
        """``role``: of the processes that have it."""
        self.name, self.meaning, self.labels, self.role = name, meaning, labels, role


class Counter(Metric):
    """Only grows; its name ends with ``_total``."""

    kind = "counter"

    def __init__(
        self, name: str, meaning: str, labels: Labels = (), role: str = "all", known: Iterable[str] = ()
    ) -> None:
        """``known``: values of its one label that are there from the start. Who counts what is rare needs the 0 before
        the first 1, or sees no increase."""
        super().__init__(name, meaning, labels, role)
        self.values: dict[Labels, float] = {(each,): 0 for each in known} if labels else {(): 0}

    def add(self, *labels: str, by: float = 1) -> None:
        values = self.values
        values[labels] = values.get(labels, 0) + by

    def take(self, total: float, *labels: str) -> None:
        """Take over what somebody else has counted."""
        self.values[labels] = total

    def replace(self, totals: dict[Labels, float]) -> None:
        """All at once: what is not named any more is gone."""
        self.values = totals


class Gauge(Metric):
    """Goes up and down."""

    kind = "gauge"

    def __init__(self, name: str, meaning: str, labels: Labels = (), role: str = "all") -> None:
        super().__init__(name, meaning, labels, role)
        self.values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        self.values[labels] = value

    def replace(self, values: dict[Labels, float]) -> None:
        """All at once: what is not named any more is gone."""
        self.values = values


class Histogram(Metric):
    """How often a time was within each bucket; in seconds."""

    kind = "histogram"

    def __init__(self, name: str, meaning: str, labels: Labels = (), role: str = "all") -> None:
        super().__init__(name, meaning, labels, role)
        self.values: dict[Labels, list[float]] = {} if labels else {(): self._empty()}

    @staticmethod
    def _empty() -> list[float]:
        """A count for each bucket and for what is beyond the last; then the sum."""
        return [0.0] * (len(BUCKETS) + 2)

    def observe(self, seconds: float, *labels: str) -> None:
        cells = self.values.get(labels)
        if cells is None:
            cells = self.values.setdefault(labels, self._empty())
        cells[bisect_left(BUCKETS, seconds)] += 1
        cells[-1] += seconds


class Metrics:
    """Those of one process."""

    def __init__(self, types: Iterable[str] = ()) -> None:
        """``types``: the task types that are known here; whatever strangers send counts as one other."""
        self._types = frozenset(types)
        known = sorted(self._types | {OTHER})
        by_type, worker, scheduler = ("type",), "worker", "scheduler"
        self.info = Gauge("verger_info", "1; which version runs here, in which roles.", ("version", "roles"))

        self.tasks_finished = Counter(
            "verger_tasks_finished_total",
            "Runs that ended, by what became of the task: `success`, `retry`, `dead_letter`, `cancelled`, `snoozed`, "
            "`released`, `again` (once more).",
            ("type", "outcome"),
            worker,
        )
        self.run_seconds = Histogram("verger_task_run_seconds", "How long runs took.", by_type, worker)
        self.wait_seconds = Histogram(
            "verger_task_wait_seconds",
            "How long tasks waited from when they were due until their run began. That of a message from outside "
            "counts from when a worker read it.",
            by_type,
            worker,
        )
        self.tasks_running = Gauge("verger_tasks_running", "Runs under way.", by_type, worker)
        self.slots = Gauge("verger_slots", "Runs that this worker may have at once.", by_type, worker)
        self.deduplicated = Counter(
            "verger_tasks_deduplicated_total", "Requests that a live task took.", by_type, worker
        )
        self.writes_refused = Counter(
            "verger_writes_refused_total",
            "Ends of runs that were not written, for their claim was lost (fenced).",
            by_type,
            worker,
            known,
        )
        self.heartbeats_failed = Counter(
            "verger_heartbeats_failed_total", "Heartbeats that did not reach the store.", (), worker
        )

        self.dead_letters = Counter(
            "verger_dead_letters_total", "Tasks that became dead letters here.", by_type, known=known
        )
        self.rescues = Counter("verger_rescues_total", "Stale claims that were taken away.", by_type, scheduler, known)
        self.relayed = Counter("verger_relayed_total", "Tasks that relay published.", by_type, scheduler, known)
        self.relay_lag = Gauge(
            "verger_relay_lag_seconds",
            "How long ago relay should have looked at the task that has waited longest for it; 0: it is in time. A "
            "backlog in a queue counts too: behind it relay waits.",
            (),
            scheduler,
        )
        self.fires = Counter("verger_schedule_fires_total", "Fires that made a task.", ("schedule",), scheduler)
        self.skipped = Counter(
            "verger_schedule_skipped_total",
            "Due instants that made no task of their own: `overlap`, `misfire` or `coalesced`. As the store counts "
            "them, so the same in every scheduler: take the maximum. Looked at once a minute.",
            ("schedule", "reason"),
            scheduler,
        )
        self.fire_lag = Histogram(
            "verger_schedule_fire_lag_seconds", "From a due instant until its task was stored.", (), scheduler
        )
        self.last_success = Gauge(
            "verger_schedule_last_success_timestamp_seconds",
            "When a task of the schedule last succeeded; looked at once a minute.",
            ("schedule",),
            scheduler,
        )
        self.overdue = Gauge(
            "verger_schedule_overdue",
            "1: the last success is too long ago; looked at once a minute.",
            ("schedule",),
            scheduler,
        )

        self.queue_messages = Gauge(
            "verger_queue_messages",
            "Messages that wait in the queue of a type, not counting those in a worker's hands. `@intake`: what no "
            "queue wanted; `@dead`: copies of dead letters.",
            by_type,
            "scheduler, api",
        )
        self.backlog = Gauge(
            "verger_backlog_seconds",
            "How long the task has waited that has been due for longest, to about ten seconds. What to scale workers "
            "on. 0: nothing waits.",
            by_type,
            "scheduler, api",
        )

        self.server_up = Gauge(
            "verger_server_up",
            "1: `store` or `broker` has answered this process within 15 s, as its readiness asks.",
            ("server",),
        )
        self.store_errors = Counter("verger_store_errors_total", "Answers of the store that were errors, or late.")
        self.broker_errors = Counter(
            "verger_broker_errors_total",
            "Connections to the broker that were lost or not made, and publishes that it did not confirm.",
        )
        self.broker_reconnects = Counter("verger_broker_reconnects_total", "Connections that were made again.")
        self.events_dropped = Counter("verger_events_dropped_total", "Events that were not sent, for there were many.")
        self.loop_lag = Histogram(
            "verger_loop_lag_seconds", "How late the event loop was, asked once a second: what a handler blocks."
        )

    def type(self, task_type: str) -> str:
        """The label of a type that a stranger may have made up."""
        return task_type if task_type in self._types else OTHER

    def __iter__(self) -> Iterator[Metric]:
        return (each for each in vars(self).values() if isinstance(each, Metric))


class _Page:
    """Metrics, as the registry of prometheus_client asks for them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core

        families = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        for metric in self._metrics:
            family: Any = families[metric.kind](metric.name, _plain(metric.meaning), labels=metric.labels)
            # Copies: others count on meanwhile.
            for labels, value in list(metric.values.items()):  # type: ignore[attr-defined]
                if isinstance(metric, Histogram):
                    family.add_metric(labels, _cumulated(value), sum_value=value[-1])
                else:
                    family.add_metric(labels, value)
            yield family


def _plain(meaning: str) -> str:
    return meaning.replace("`", "")


def _cumulated(cells: list[float]) -> list[tuple[str, float]]:
    total, found = 0.0, []
    for bound, count in zip((*BUCKETS, float("inf")), cells, strict=False):
        total += count
        found.append(("+Inf" if bound == float("inf") else repr(bound), total))
    return found


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(metrics: Metrics) -> bytes:
    """The page in Prometheus' text form, with the process's own (memory, CPU, open files). Takes some milliseconds."""
    # Here, for no command and no process that nobody scrapes needs it.
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(metrics))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
