"""The report: written from the kept results alone, so that it can be written again without measuring."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.drain import BOUND_SECONDS, LARGE
from bench.latency import LOADS, QUANTILES, SECONDS, metric
from bench.machine import MACHINE
from bench.plots import draw
from bench.result import Result, load
from bench.system import System
from bench.systems import LEFT_OUT, SYSTEMS
from bench.targets import BULK, ONE, SINGLY, TWO, Found, name, verdicts

HERE = Path(__file__).parent
OWN_TABLES = ("drain", "sleep", "enqueue", "latency")
OTHERS = {
    "million": "A million finished tasks in the store",
    "idle": "Idle",
    "memory": "Memory of a worker",
    "fires": "A thousand fires in one second",
    "recovery": "Recovery after a kill",
    "actors": "The maintenance actors",
}


def write_report(kept: Path) -> Path:
    """Write ``report.md`` and its plots, for a trial run beside its results; returns the report."""
    results = [result for path in sorted(kept.glob("*.json")) if path.name != MACHINE for result in load(path)]
    home = HERE if kept == HERE / "results" else kept
    path = home / "report.md"
    plots = {plot.stem: f"![{plot.stem}]({plot.relative_to(home)})" for plot in draw(results, home / "plots")}
    machine = kept / MACHINE
    described: dict[str, Any] = json.loads(machine.read_text()) if machine.exists() else {}
    found = Found(results)
    parts = [
        _summary(results, described, trial=home != HERE),
        _drain(found),
        _sleep(found),
        _enqueue(found),
        _latency(found),
    ]
    sections = list(zip(("", *OWN_TABLES), parts, strict=True))
    text = "\n\n".join(
        "\n\n".join(filter(None, (section, plots.get(workload)))) for workload, section in sections if section
    )
    others = "\n\n".join(filter(None, (_other(results, workload, title) for workload, title in OTHERS.items())))
    path.write_text("\n\n".join(filter(None, (text, others, _method(described)))) + "\n")
    return path


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _rate(result: Result | None) -> str:
    if result is None:
        return "–"
    low, high = result.spread
    return f"{result.median:,.0f} ({low:,.0f}–{high:,.0f})" if len(result.samples) > 1 else f"{result.median:,.0f}"


def _present(found: Found, workload: str, first: str) -> list[tuple[System, Result]]:
    """The systems that have a result, in the order in which all tables name them."""
    pairs = ((system, found.one(workload, first, system.name, system.variant)) for system in SYSTEMS)
    return [(system, result) for system, result in pairs if result is not None]


def _summary(results: Sequence[Result], described: dict[str, Any], *, trial: bool) -> str:
    opening = "`make bench` measures all of this again and writes this page."
    if trial:
        opening = "A trial run, of less than everything: it says nothing about the targets."
    words = {True: "met", False: "**unmet**", None: "–"}
    lines = verdicts(results)
    met, unmet = (sum(line.met is each for line in lines) for each in (True, False))
    machine = described.get("machine", {})
    where = (
        f" One machine of {machine.get('cores')} cores did all of a workload; which one stands under Method."
        if machine
        else ""
    )
    table = _table(("Target", "Measured", ""), ((line.target, line.measured, words[line.met]) for line in lines))
    return (
        f"# Benchmark\n\n{opening}\n\n"
        f"{met} targets are met, {unmet} are unmet, {len(lines) - met - unmet} were not measured.{where} "
        "*stored* is Verger with tasks that its client stores before it publishes them; *message* is Verger with tasks "
        f"that a plain AMQP client publishes. [Method](#method) says how.\n\n## Summary\n\n{table}"
    )


def _drain(found: Found) -> str | None:
    present = _present(found, "drain", TWO)
    if not present:
        return None
    rows = []
    for system, two in present:
        one = found.one("drain", ONE, system.name, system.variant)
        note = "" if two.detail["all_done"] else f"; at most {BOUND_SECONDS:g} s"
        share = f"{one.median / two.median:.2f}" if one and two.median else "–"
        durable = "yes" if system.durable_results else "no"
        rows.append((system.title, durable, f"{two.detail['tasks']:,}{note}", _rate(two), _rate(one), share))
    head = ("System", "Results are stored", "Tasks", "Two processes, tasks/s", "One process, tasks/s", "One / two")
    large = [f"{result.median:,.0f} tasks/s ({name(result)})" for result in found.all("drain", f"{TWO} of {LARGE:,}")]
    more = f"\n\nOf {LARGE:,} tasks, two processes: {', '.join(large)}." if large else ""
    return (
        "## Drain\n\nTasks that do nothing wait in the queue; the workers start; the clock runs from the first task to "
        "the last one. Where results are stored, that is when the last one is. Median (least–greatest).\n\n"
        f"{_table(head, rows)}{more}"
    )


def _sleep(found: Found) -> str | None:
    present = _present(found, "sleep", "nap 2 processes")
    if not present:
        return None
    rows = [
        (system.title, f"{result.detail['tasks']:,}", str(system.nap_slots), _rate(result))
        for system, result in present
    ]
    return (
        "## Drain of naps\n\nThe same with tasks that wait 10 ms, two worker processes. Every system may have as many "
        "under way at once: threads in Celery and Dramatiq, coroutines elsewhere.\n\n"
        f"{_table(('System', 'Tasks', 'At once, each process', 'tasks/s'), rows)}"
    )


def _enqueue(found: Found) -> str | None:
    present = _present(found, "enqueue", BULK)
    if not present:
        return None
    rows = [
        (
            system.title,
            _rate(found.one("enqueue", SINGLY, system.name, system.variant)),
            _rate(bulk),
            system.bulk,
        )
        for system, bulk in present
    ]
    return (
        "## Enqueue\n\nOne client process; a task counts once the call has returned, durable, and confirmed where the "
        "system can. No worker runs.\n\n"
        f"{_table(('System', 'One by one, tasks/s', 'In bulk, tasks/s', 'What bulk is'), rows)}"
    )


def _latency(found: Found) -> str | None:
    present = _present(found, "latency", metric(0.5, LOADS[0]))
    if not present:
        return None
    rows = []
    for system, first in present:
        cells = []
        for share in LOADS:
            each = [
                found.one("latency", metric(quantile, share), system.name, system.variant) for quantile in QUANTILES
            ]
            cells.append(_delays([result for result in each if result is not None]))
        rows.append((system.title, f"{first.detail['capacity']:,.0f}", *cells))
    head = ("System", "100 % is, tasks/s", *(f"{share * 100:g} % load: p50 / p95 / p99, ms" for share in LOADS))
    return (
        "## Latency\n\nFrom the planned instant of the send to the start of the handler, two worker processes, "
        f"{SECONDS:g} s for each load, after a warm-up. 100 % is what it drained with two processes: then "
        "nobody was sending, so that a load of 80 % may be more than this machine has room for. "
        "† The sender itself was so late that it makes up most of the p99. ‡ Tasks were still waiting ten seconds "
        f"after the last send; higher loads were not tried.\n\n{_table(head, rows)}"
    )


def _delays(results: Sequence[Result]) -> str:
    if not results:
        return "–"
    detail = results[-1].detail
    marks = "‡" if any(detail["unfinished"]) else ""
    if max(detail["sender_late_p99_ms"]) > results[-1].median / 2:
        marks += "†"
    return " / ".join(f"{result.median:,.1f}" for result in results) + (f" {marks}" if marks else "")


def _other(results: Sequence[Result], workload: str, title: str) -> str | None:
    rows = [
        (
            name(result),
            result.metric,
            f"{result.median:,.4g}",
            f"{result.spread[0]:,.4g}–{result.spread[1]:,.4g}",
            result.unit,
        )
        for result in results
        if result.workload == workload
    ]
    return f"## {title}\n\n{_table(('System', 'Metric', 'Median', 'Spread', 'Unit'), rows)}" if rows else None


def _line(reason: str) -> str:
    """A reason as one line; of the last words of a process the end says most."""
    words = " ".join(reason.split())
    return words if len(words) <= 400 else f"{words[:100]} … {words[-300:]}"


def _method(described: dict[str, Any]) -> str:
    versions = "\n".join(
        f"- {group}: " + ", ".join(f"{key} {value}" for key, value in described[group].items())
        for group in ("machine", "servers", "Verger", "peers")
        if group in described
    )
    measured = ", ".join(
        f"{workload} {each['at']} ({each.get('processor', 'unknown')})"
        for workload, each in described.get("measured", {}).items()
    )
    systems = _table(
        ("System", "How it is run", "What it does not keep"),
        ((system.title, system.setup, system.lacks) for system in SYSTEMS),
    )
    failed = {
        f"{what} ({workload})": reason
        for workload, each in described.get("measured", {}).items()
        for what, reason in each.get("failed", {}).items()
    }
    left_out = (
        "\n".join(f"- {what}: {_line(reason)}" for what, reason in {**LEFT_OUT, **failed}.items()) or "- Nothing."
    )
    text = (HERE / "method.md").read_text()
    return text.format(
        bound=f"{BOUND_SECONDS:g}",
        versions=versions or "- Versions were not recorded.",
        measured=measured or "never",
        systems=systems,
        left_out=left_out,
    )
