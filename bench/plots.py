"""Pictures of the tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.result import Result
from bench.targets import BULK, ONE, SINGLY, TWO, Found, name

OURS, THEIRS = ("#1b6e4b", "#8fc7ae"), ("#5b6472", "#b9c0ca")


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write a picture for each workload that has results; returns them."""
    import matplotlib as mpl

    mpl.use("Agg")
    found = Found(results)
    folder.mkdir(parents=True, exist_ok=True)
    bars = (
        ("drain", "Drain of no-ops", (TWO, ONE)),
        ("sleep", "Drain of 10 ms naps", ("nap 2 processes",)),
        ("enqueue", "Enqueue", (BULK, SINGLY)),
    )
    drawn = [_bars(found, workload, title, metrics, folder) for workload, title, metrics in bars]
    return [path for path in (*drawn, _latency(found, folder)) if path is not None]


def _bars(found: Found, workload: str, title: str, metrics: Sequence[str], folder: Path) -> Path | None:
    from matplotlib import pyplot

    first = sorted(found.all(workload, metrics[0]), key=lambda each: each.median)
    if not first:
        return None
    figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(first) * len(metrics) + 1.4))
    thickness = 0.8 / len(metrics)
    for number, metric in enumerate(metrics):
        by_name = {name(each): each for each in found.all(workload, metric)}
        for row, each in enumerate(first):
            if (result := by_name.get(name(each))) is not None:
                low, high = result.spread
                axes.barh(
                    row + 0.4 - thickness * (number + 0.5),
                    result.median,
                    thickness * 0.92,
                    xerr=[[result.median - low], [high - result.median]],
                    color=(OURS if result.system == "verger" else THEIRS)[number],
                    error_kw={"elinewidth": 0.8},
                )
    axes.set_yticks(range(len(first)), [name(each) for each in first])
    axes.set_xlabel("tasks a second: median, least and greatest")
    note = f" (dark: {metrics[0]}; light: {metrics[1]})" if len(metrics) > 1 else ""
    return _finish(figure, axes, title + note, folder / f"{workload}.png")


def _latency(found: Found, folder: Path) -> Path | None:
    from matplotlib import pyplot

    loads = (10, 50, 80)
    greens = iter(OURS)
    lines: dict[str, tuple[str, list[tuple[int, float]]]] = {}
    for load in loads:
        for each in found.all("latency", f"p99 at {load}% load"):
            lines.setdefault(name(each), (each.system, []))[1].append((load, each.median))
    if not lines:
        return None
    figure, axes = pyplot.subplots(figsize=(9, 5))
    for label, (system, points) in lines.items():
        ours = system == "verger"
        shape = {"color": next(greens), "linewidth": 2.6, "zorder": 3} if ours else {"linewidth": 1.2}
        axes.plot(*zip(*points, strict=True), marker="o", label=label, **shape)
    axes.set_yscale("log")
    axes.set_xticks(loads, [f"{load} %" for load in loads])
    axes.set_xlabel("load, of what the same system drained")
    axes.set_ylabel("ms")
    axes.legend(fontsize=8)
    return _finish(figure, axes, "Publish to start, 99th percentile", folder / "latency.png")


def _finish(figure: Any, axes: Any, title: str, path: Path) -> Path:
    from matplotlib import pyplot

    axes.set_title(title, fontsize=11)
    axes.grid(axis="both", linewidth=0.3)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
