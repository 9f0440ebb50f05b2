"""``verger reference``: the pages of documentation that are made from code."""

from enum import StrEnum
from importlib import import_module
from typing import Annotated

import typer


class Page(StrEnum):
    """What there is to read."""

    LOGS = "logs"
    METRICS = "metrics"


def reference(
    page: Annotated[Page, typer.Argument(help="logs: every event and its fields; metrics: every metric.")],
) -> None:
    """Print what the log and the metrics say, as Markdown: docs/logs.md and docs/metrics.md."""
    print(import_module(f"{__name__}.{page.value}").page(), end="")
