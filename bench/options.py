"""What was asked for on the command line, as every workload gets it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _silent(text: str) -> None:
    """Nobody listens."""


def _raise(what: str, error: Exception) -> None:
    raise error


@dataclass(frozen=True)
class Options:
    """Choices of one run of the benchmark."""

    quick: bool = False
    """A smoke run: the smallest sizes that still go through everything; its numbers mean nothing."""
    runs: int | None = None
    """How often each measurement is repeated; None: as the workload thinks right."""
    systems: tuple[str, ...] = ()
    """Names of the systems to measure; empty: all."""
    results: Path = Path(__file__).parent / "results"
    """Folder in which the results are kept."""
    say: Callable[[str], None] = _silent
    """Shows one short line on what happens now, beside the progress bar."""
    plan: Callable[[int], None] = lambda steps: None
    """Tells the progress bar how many steps this workload has."""
    step: Callable[[], None] = lambda: None
    """One of these steps is done."""
    failed: Callable[[str, Exception], None] = _raise
    """What could not be measured, and why; the others go on."""

    def wants(self, system: str) -> bool:
        return not self.systems or system in self.systems
