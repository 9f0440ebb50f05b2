"""``verger reference``: the pages of documentation that are made from code."""

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer


class Page(StrEnum):
    """What there is to read."""

    LOGS = "logs"
    METRICS = "metrics"
    FAMILY = "family"


def reference(
    page: Annotated[
        Page,
        typer.Argument(help="logs: every event and its fields; metrics: every metric; family: the actors of a module."),
    ],
    module: Annotated[str, typer.Option(help="For family: a module, such as actors.sessions.")] = "",
    schedules: Annotated[Path | None, typer.Option(help="For family: the file with their default schedules.")] = None,
) -> None:
    """Print what the log, the metrics or the actors say of themselves, as Markdown."""
    made = import_module(f"{__name__}.{page.value}")
    if page is not Page.FAMILY:
        print(made.page(), end="")
        return
    if not module:
        raise typer.BadParameter("give --module, such as actors.sessions", param_hint="--module")
    from service.schedule_file import read_file

    print(made.page(module, read_file(schedules.read_bytes()).schedules if schedules else ()), end="")
