"""What a fault test found, kept as one line of JSON, of which the page ``docs/fault-matrix.md`` is made."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.kit.invariants import Findings

RECORDS = "FAULTS_RECORDS"
"""The variable that names the file; without it nothing is kept."""
RUN = "FAULTS_RUN"
"""The variable that tells the records of one run from those of another: when it began."""


@dataclass(frozen=True)
class Result:
    part: str
    """The part of the page: ``Processes``, ``Clocks``, ``Messages``, ``Broker``, ``Database``, ``Network``, …"""
    fault: str
    happened: str
    """What became of it, in a few words."""
    bite: str
    """How it was shown that the fault happened."""
    recovery: float | None
    """Seconds from the fault to the end of the last task it touched."""
    tasks: int
    lost: int
    doubled: int
    seed: int | None = None
    run: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


class Recorder:
    """``record(part, fault, …)`` keeps a result."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        """``versions`` are of the servers; Python's is added."""
        self._versions = {**versions, "Python": platform.python_version()}

    def __call__(
        self,
        part: str,
        fault: str,
        *,
        happened: str,
        bite: str,
        findings: Findings | None = None,
        recovery: float | None = None,
        seed: int | None = None,
    ) -> None:
        """``findings`` are of ``invariants.check``; None where no tasks were concerned."""
        found = findings or Findings()
        result = Result(
            part,
            fault,
            happened,
            bite,
            None if recovery is None else round(recovery, 2),
            found.tasks,
            len(found.lost),
            len(found.doubled),
            seed,
            os.environ.get(RUN, ""),
            self._versions,
        )
        if path := os.environ.get(RECORDS):
            with Path(path).open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")


def read(path: Path) -> list[Result]:
    """All records of a file; of each fault, on each major version of RabbitMQ, those of the last run alone."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    newest = {_which(result): result.run for result in sorted(results, key=lambda result: result.run)}
    return [result for result in results if newest[_which(result)] == result.run]


def _which(result: Result) -> tuple[str, ...]:
    return result.part, result.fault, result.versions.get("RabbitMQ", "").partition(".")[0]
