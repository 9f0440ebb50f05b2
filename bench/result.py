"""One measured metric, and how it is kept: a JSON file for each workload."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """One metric of one system in one workload; a sample for each run, in the order of the runs."""

    workload: str
    system: str
    variant: str
    metric: str
    unit: str
    samples: list[float]
    detail: dict[str, Any]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest sample."""
        return min(self.samples), max(self.samples)


def save(results: Sequence[Result], path: Path) -> None:
    """Write the results of one workload, replacing what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in results], indent=1, sort_keys=True) + "\n")


def load(path: Path) -> list[Result]:
    """Read what ``save`` wrote."""
    return [Result(**fields) for fields in json.loads(path.read_text())]
