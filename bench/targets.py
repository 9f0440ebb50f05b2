"""What Verger should reach, and whether it did. Ratios compare what was measured side by side in the same rounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.result import Result

TWO, ONE = "noop 2 processes", "noop 1 process"
SINGLY, BULK = "one by one", "in batches of 500"


@dataclass(frozen=True)
class Verdict:
    """One line of the summary."""

    target: str
    measured: str
    met: bool | None
    """None: not measured."""


class Found:
    """All results, by what they are."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = results

    def one(self, workload: str, metric: str, system: str, variant: str = "") -> Result | None:
        for each in self._results:
            if (each.workload, each.metric, each.system, each.variant) == (workload, metric, system, variant):
                return each
        return None

    def all(self, workload: str, metric: str) -> list[Result]:
        return [each for each in self._results if (each.workload, each.metric) == (workload, metric)]

    def peers(self, workload: str, metric: str) -> list[Result]:
        return [each for each in self.all(workload, metric) if each.system != "verger"]


def ratios(above: Result, below: Result) -> list[float]:
    """Round by round; where one took part in more rounds, only those of both."""
    return [a / b for a, b in zip(above.samples, below.samples, strict=False) if b]


def name(result: Result) -> str:
    return " ".join(part for part in (result.system, result.variant) if part)


def _ratio(target: str, above: Result | None, below: Result | None, least: float) -> Verdict:
    text = f"{target} ≥ {least:g}"
    if above is None or below is None:
        return Verdict(text, "not measured", None)
    found = ratios(above, below)
    if not below.median:
        return Verdict(text, "the other did nothing in time", None)
    ratio = above.median / below.median
    spread = f" ({min(found):.2f} to {max(found):.2f} in {len(found)} rounds)" if len(found) > 1 else ""
    return Verdict(text, f"{ratio:.2f}{spread}: {above.median:,.0f} / {below.median:,.0f} tasks/s", ratio >= least)


def _best(results: Sequence[Result], key: Callable[[Sequence[Result]], Result]) -> Result | None:
    return key(results) if results else None


def _fastest(results: Sequence[Result]) -> Result:
    return max(results, key=lambda each: each.median)


def _shortest(results: Sequence[Result]) -> Result:
    return min(results, key=lambda each: each.median)


def _drain(found: Found, variant: str) -> list[Verdict]:
    two = found.one("drain", TWO, "verger", variant)
    peers = (("celery", "mongodb", 8.0), ("taskiq", "", 1.3), ("dramatiq", "", 1.0))
    verdicts = [
        _ratio(
            f"Drain, two processes: Verger ({variant}) / {system} {variant_of or 'without results'}",
            two,
            found.one("drain", TWO, system, variant_of),
            least,
        )
        for system, variant_of, least in peers
    ]
    one = found.one("drain", ONE, "verger", variant)
    return [*verdicts, _ratio(f"Drain: Verger ({variant}) with one process / with two", one, two, 0.8)]


def _enqueue(found: Found, variant: str) -> list[Verdict]:
    best_bulk = _best(found.peers("enqueue", BULK), _fastest)
    asyncio_peers = [each for each in found.peers("enqueue", SINGLY) if each.detail["asyncio"]]
    best_singly = _best(asyncio_peers, _fastest)
    return [
        _ratio(
            f"Enqueue in bulk: Verger ({variant}) / the best peer ({name(best_bulk) if best_bulk else 'none'})",
            found.one("enqueue", BULK, "verger", variant),
            best_bulk,
            1.5,
        ),
        _ratio(
            f"Enqueue one by one: Verger ({variant}) / the best asyncio peer "
            f"({name(best_singly) if best_singly else 'none'})",
            found.one("enqueue", SINGLY, "verger", variant),
            best_singly,
            1.0,
        ),
    ]


def _latency(found: Found, variant: str) -> list[Verdict]:
    half, tenth = "p99 at 50% load", "p50 at 10% load"
    ours, best = found.one("latency", half, "verger", variant), _best(found.peers("latency", half), _shortest)
    low = found.one("latency", tenth, "verger", variant)
    text = f"Publish to start at 50 % load, p99: Verger ({variant}) ≤ the best peer"
    return [
        Verdict(
            f"{text} ({name(best)})" if best else text,
            f"{ours.median:.1f} ms / {best.median:.1f} ms" if ours and best else "not measured",
            ours.median <= best.median if ours and best else None,
        ),
        Verdict(
            f"Publish to start at 10 % load, p50: Verger ({variant}) ≤ 5 ms",
            f"{low.median:.1f} ms" if low else "not measured",
            low.median <= 5.0 if low else None,
        ),
    ]


@dataclass(frozen=True)
class Limit:
    """A metric that must stay below a number; of all variants the worst counts."""

    workload: str
    metric: str
    text: str
    most: float
    reachable: bool = True
    """Whether the number itself is good enough."""
    variant: str | None = None
    """Only this one; None: all."""


LIMITS = (
    Limit("million", "cost of a drain", "1,000,000 finished tasks in the store cost a drain < 5 %", 5, reachable=False),
    Limit("idle", "MongoDB operations", "Idle: ≤ 60 MongoDB operations a minute for each process", 60),
    Limit("idle", "CPU", "Idle: < 1 % of a core for each process", 1, reachable=False),
    Limit(
        "memory",
        "growth after the second step",
        "A worker's memory is flat over 200,000 tasks: grows by ≤ 3 MB after the first 40,000",
        3,
        variant="worker",
    ),
    Limit("fires", "published p99", "1,000 fires in one second: published with a p99 lag ≤ 1 s", 1000),
    Limit("fires", "missed", "1,000 fires in one second: none missed", 0),
    Limit("fires", "doubled", "1,000 fires in one second: none doubled", 0),
    Limit("recovery", "claim started again p99", "Recovery after a kill: p99 ≤ the stale-claim timeout (5 s) + 3 s", 8),
)


def _limit(found: Found, limit: Limit) -> Verdict:
    results = [each for each in found.all(limit.workload, limit.metric) if limit.variant in (None, each.variant)]
    if not results:
        return Verdict(limit.text, "not measured", None)
    worst = max(results, key=lambda each: each.median)
    # One fire lost in one run is one too many, so nothing is averaged away where nothing is allowed.
    value = max(each.spread[1] for each in results) if limit.most == 0 else worst.median
    met = value <= limit.most if limit.reachable else value < limit.most
    return Verdict(limit.text, f"{value:.3g} {worst.unit} ({worst.variant or worst.system})", met)


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Every target, in the order of the summary."""
    found = Found(results)
    each: list[Verdict] = []
    for part in (_drain, _enqueue, _latency):
        for variant in ("stored", "message"):
            each.extend(part(found, variant))
    return [*each, *(_limit(found, limit) for limit in LIMITS)]
