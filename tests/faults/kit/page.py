"""The page of the fault matrix, made of the records (pure)."""

from collections.abc import Sequence
from itertools import groupby
from statistics import median

from tests.faults.kit.record import Result

SOAK = "Soak"
"""The part whose results are of many faults each."""
PARTS = ("Processes", "Clocks", "Messages", "Broker", "Database", "Network", "API", SOAK)
"""In the order of the page; others follow."""

HEAD = """\
# Fault matrix

What Verger survives, by a run on real processes and real servers: each fault is done to them, is shown to have
happened, and afterwards everything is checked from outside. Written by `make faults` (`make faults RABBITMQ=4`); not
by hand. The tests are in `tests/faults`, the promises in [guarantees](guarantees.md), the rules (`P1` to `P19`) in
[protocol](protocol.md).

Handlers write what they do into a file of their own; the states of each task are read from MongoDB's own log of
writes. After every fault this holds, or the run fails:

- each accepted task has ended, in one terminal state, and a further task is still served;
- no task was claimed while it was claimed, no claim ran twice, and what was accepted as a task's result is what the
  last claim did;
- no task had more attempts than it may have, and none rose from its end without a replay;
- where the test has a schedule, each of its instants made its one task: all under Clocks, Broker, Database and Soak,
  those under Network but for the repeated resets, and those under Processes that say so.

*Recovery* is the time from the fault to the end of the last task that it touched, median and longest where there are
several; `-` where nothing had to recover. It includes the stale-claim timeout, which is 3 s here (30 s is the
default), and runs that were still to be made. Where several faults befall one load, the tasks of a row are those that
were stored since the fault before, and what holds is checked after the last.
"""


def page(results: Sequence[Result]) -> str:
    """Markdown."""
    return "\n".join([HEAD, _sums(results), *(_part(name, results) for name in _parts(results))])


def _parts(results: Sequence[Result]) -> list[str]:
    names = {result.part for result in results}
    return [*(name for name in PARTS if name in names), *sorted(names - set(PARTS))]


def _sums(results: Sequence[Result]) -> str:
    """A soak is no fault of its own: counted apart."""
    soaks = [result for result in results if result.part == SOAK]
    others = [result for result in results if result.part != SOAK]
    faults = len({(result.part, result.fault) for result in others})
    counted = [f"{faults} faults, {len(others)} results, {_tasks(others)}"]
    counted += [f"{len(soaks)} soaks, {_tasks(soaks)}"] if soaks else []
    lost, doubled = sum(result.lost for result in results), sum(result.doubled for result in results)
    return "\n".join(
        [
            f"**{'; '.join(counted)}: {lost} lost, {doubled} accepted twice.**",
            "",
            *(f"- {line}" for line in _versions(results)),
            "",
        ]
    )


def _tasks(results: Sequence[Result]) -> str:
    return f"{sum(result.tasks for result in results):,} tasks"


def _versions(results: Sequence[Result]) -> list[str]:
    """What was there together, and the days on which its runs began."""
    days: dict[str, set[str]] = {}
    for result in results:
        together = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        days.setdefault(together, set()).update([result.run[:10]] if result.run else [])
    return [f"{together}: {', '.join(sorted(on))}" if on else together for together, on in sorted(days.items())]


def _part(name: str, results: Sequence[Result]) -> str:
    rows = [
        "| Fault | RabbitMQ | What happened | Shown by | Recovery | Tasks | Lost | Twice |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    mine = sorted((result for result in results if result.part == name), key=_row)
    rows += [_cells(list(group)) for _, group in groupby(mine, _row)]
    times = [result.recovery for result in mine if result.recovery is not None]
    faults = len({result.fault for result in mine})
    sums = [f"{faults} {'soaks' if name == SOAK else 'faults'}; recovery {_times(times)}.", ""] if times else []
    return "\n".join([f"## {name}", "", *sums, *rows, ""])


def _times(times: Sequence[float]) -> str:
    """The one, or the median and the longest of several."""
    return f"{max(times):.1f} s" if len(times) == 1 else f"p50 {median(times):.1f} s, max {max(times):.1f} s"


def _row(result: Result) -> tuple[str, str]:
    return result.fault, result.versions.get("RabbitMQ", "")


def _cells(same: Sequence[Result]) -> str:
    first = same[0]
    times = [result.recovery for result in same if result.recovery is not None]
    seeds = sorted({result.seed for result in same if result.seed is not None})
    cells = [
        first.fault + (f" (seed {', '.join(map(str, seeds))})" if seeds else ""),
        first.versions.get("RabbitMQ", ""),
        first.happened,
        first.bite,
        _times(times) if times else "-",
        f"{sum(result.tasks for result in same):,}",
        str(sum(result.lost for result in same)),
        str(sum(result.doubled for result in same)),
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
