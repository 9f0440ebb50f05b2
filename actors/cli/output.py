"""What a command prints: JSON for machines, tables for people; on stdout, and everything else on stderr."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors.cli.failure import visible

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

WIDTH = 120
"""Of a table that goes to a file or a pipe."""
GAP = 2
LEAST_CUT, LEAST_WRAPPED = 12, 24
"""Of the columns that give way."""
STYLES = {
    "completed": "green",
    "running": "cyan",
    "pending": "yellow",
    "failed": "red",
    "cancelled": "dim",
    "paused": "dim",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
}
"""Colours of words that stand alone in a cell."""


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def plain(model: "BaseModel") -> dict[str, Any]:
    """A model as the API shows it: camelCase, instants in ISO 8601."""
    content: dict[str, Any] = model.model_dump(mode="json", by_alias=True)
    return content


def say(line: str = "") -> None:
    """A line for people on stdout."""
    print(visible(line))


def styled(first: str, style: str, rest: str) -> None:
    """A line for people whose first word is coloured."""
    from rich.text import Text

    _console().print(Text.assemble((first, STYLES.get(style, "")), " ", visible(rest)), soft_wrap=True)


def note(line: str = "") -> None:
    """A line for people on stderr: not part of the answer."""
    sys.stdout.flush()
    print(visible(line), file=sys.stderr)


def table(headers: Sequence[str], rows: Iterable[Sequence[str | None]], *, fold: int = 0) -> None:
    """A table. Where the terminal is too narrow the last column is cut short, then the column ``fold`` is wrapped."""
    from rich.table import Table
    from rich.text import Text

    cells = [[visible(" ".join((cell or "").splitlines())) for cell in row] for row in rows]
    console = _console()
    widths = _widths([list(headers), *cells], fold, console)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for index, header in enumerate(headers):
        wraps = index == fold
        made.add_column(header, width=widths[index], overflow="fold" if wraps else "ellipsis", no_wrap=not wraps)
    for row in cells:
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    with console.capture() as captured:
        console.print(made)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _widths(rows: Sequence[Sequence[str]], fold: int, console: "Console") -> list[int]:
    """The width of each column; a terminal that is narrower than the least of them wraps the lines itself."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + GAP * len(widths) - console.width
    for index, least in ((len(widths) - 1, LEAST_CUT), (fold, LEAST_WRAPPED)):
        cut = max(0, min(excess, widths[index] - least))
        widths[index] -= cut
        excess -= cut
    console.width += max(0, excess)
    return widths


def details(pairs: Mapping[str, str | None]) -> None:
    """One line for each that has a value; further lines of a value are indented."""
    known = {name: value for name, value in pairs.items() if value is not None}
    width = max(map(len, known), default=0) + 2
    for name, value in known.items():
        first, *more = value.splitlines() or [""]
        say(f"{name:<{width}}{first}".rstrip())
        for line in more:
            say(" " * width + line)


def pretty(value: Any) -> str:
    """JSON for people: short on one line, else indented."""
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= 80 else json.dumps(value, ensure_ascii=False, indent=2)


def _console() -> "Console":
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)
