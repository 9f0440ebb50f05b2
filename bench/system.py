"""A system that is measured, as plain data: how it is run, and what the report says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.process import ROOT
from bench.stores import MakeStore

Workers = Callable[[int, int | None], list[list[str]]]
"""Processes, and tasks at once in each (None: as recommended for no-ops) → the commands that start them."""


@dataclass(frozen=True, eq=False)
class System:
    """One system in one variant."""

    name: str
    variant: str
    title: str
    """How the report calls it."""
    setup: str
    """Its settings, for the report."""
    bulk: str
    """Its bulk interface, for the report."""
    lacks: str
    """What it does not keep, for the report."""
    count: int = 20_000
    """Tasks of one drain: as many as it does in a little more than ten seconds, 20,000 at most."""
    durable_results: bool = False
    workers: Workers = lambda processes, slots: []
    sender: tuple[str, ...] = ()
    store: MakeStore | None = None
    """Where a peer records finished tasks; None: nowhere."""
    folder: Path = ROOT
    programs: tuple[Path, ...] = ()
    """What must have been installed."""
    nap_slots: int = 100
    """Tasks at once in each process, where they wait 10 ms."""
    asyncio: bool = False
    """Its client is one of asyncio."""
    headline: bool = True
    """A target names it, so it takes part in all rounds; the others only in the first ones."""

    @property
    def key(self) -> str:
        """What ``--systems`` calls it; its name alone means all of its variants."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    @property
    def missing(self) -> str | None:
        """Why it cannot be run on this machine now, and how to mend that."""
        absent = [str(program.relative_to(ROOT)) for program in self.programs if not program.exists()]
        return f"{', '.join(absent)} is missing; run scripts/setup bench" if absent else None
