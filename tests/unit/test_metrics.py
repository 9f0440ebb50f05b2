"""The metrics of a process: their names, their page and its documentation."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.cli.reference.metrics import page
from service.metrics import BUCKETS, Counter, Gauge, Histogram, Metric, Metrics, render

ROOT = Path(__file__).parents[2]
UNITS = ("_seconds", "_total", "_messages", "_running", "slots", "_info", "_overdue", "_up")
BOUNDED = {"type", "outcome", "schedule", "reason", "version", "roles", "server"}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Name and values of the labels → value, as a scraper reads them."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(render(metrics).decode())
        for sample in family.samples
    }


def test_what_is_counted_is_on_the_page() -> None:
    metrics = Metrics(["a.b"])
    metrics.tasks_finished.add("a.b", "success")
    metrics.tasks_finished.add("a.b", "success", by=2)
    metrics.tasks_running.set(3, "a.b")
    metrics.events_dropped.take(7)
    for seconds in (0.0005, 0.001, 0.002, 7200):
        metrics.run_seconds.observe(seconds, "a.b")

    found = samples(metrics)

    assert found["verger_tasks_finished_total", ("success", "a.b")] == 3
    assert found["verger_tasks_running", ("a.b",)] == 3
    assert found["verger_events_dropped_total", ()] == 7
    bucket = {labels[0]: value for (name, labels), value in found.items() if name == "verger_task_run_seconds_bucket"}
    assert (bucket["0.001"], bucket["0.0025"], bucket["3600.0"], bucket["+Inf"]) == (2, 3, 3, 4)
    assert found["verger_task_run_seconds_count", ("a.b",)] == 4
    assert found["verger_task_run_seconds_sum", ("a.b",)] == pytest.approx(7200.0035)


def test_the_page_of_two_processes_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.store_errors.add()

    assert samples(one)["verger_store_errors_total", ()] == 1
    assert samples(other)["verger_store_errors_total", ()] == 0


def test_what_has_no_labels_is_there_from_the_start() -> None:
    found = {name for name, _ in samples(Metrics())}

    assert {"verger_broker_errors_total", "verger_loop_lag_seconds_count", "process_resident_memory_bytes"} <= found


def test_what_is_rare_is_there_before_it_happens_so_that_its_first_time_is_an_increase() -> None:
    found = samples(Metrics(["a.b"]))

    for name in ("verger_dead_letters_total", "verger_rescues_total", "verger_writes_refused_total"):
        assert (found[name, ("a.b",)], found[name, ("@other",)]) == (0, 0)


def test_types_that_strangers_make_up_are_one() -> None:
    metrics = Metrics(["a.b"])

    assert [metrics.type(task_type) for task_type in ("a.b", "x1", "x2")] == ["a.b", "@other", "@other"]


def test_buckets_go_from_a_millisecond_to_an_hour() -> None:
    assert (BUCKETS[0], BUCKETS[-1]) == (0.001, 3600.0)
    assert list(BUCKETS) == sorted(set(BUCKETS))


@pytest.mark.parametrize("metric", list(Metrics()), ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"verger_[a-z_]+", metric.name)
    assert metric.name.endswith(UNITS)
    assert metric.name.endswith("_total") == isinstance(metric, Counter)
    assert isinstance(metric, Counter | Gauge | Histogram)
    assert set(metric.labels) <= BOUNDED
    assert metric.meaning.endswith(".")


def test_the_page_is_the_one_that_is_made_from_the_metrics() -> None:
    kept = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

    assert kept.endswith(f"\n{page()}"), "run: scripts/reference"
    known = {metric.name for metric in Metrics()}
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bverger_\w+", kept)}
    assert named <= known
