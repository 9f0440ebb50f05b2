"""Options that several commands share."""

from typing import Annotated, Any

import typer


def _everywhere(ctx: typer.Context, value: bool) -> bool:
    """``verger --json tasks list`` is ``verger tasks list --json``."""
    root: Any = ctx.find_root()
    return value or bool(root.params.get("json"))


Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for machines.", callback=_everywhere)]
AllowUnknown = Annotated[
    bool,
    typer.Option("--allow-unknown", help="Take task types that are not loaded here: other processes may know them."),
]
