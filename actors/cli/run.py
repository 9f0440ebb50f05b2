"""``verger run``."""

from typing import Annotated

import typer

from actors.cli.logs import set_up_logs
from actors.composition import Role, run_and_leave
from service.settings import load_settings


def run(
    roles: Annotated[
        str | None, typer.Option("--roles", help=f"Of {', '.join(Role)}, separated by commas; default: all.")
    ] = None,
) -> None:
    """Run roles in this process until SIGTERM; a graceful stop burns no attempt."""
    chosen = list(Role) if roles is None else [_role(name.strip()) for name in roles.split(",") if name.strip()]
    if not chosen:
        raise typer.BadParameter(f"names no role; there are: {', '.join(Role)}", param_hint="--roles")
    settings = load_settings()
    set_up_logs(settings)
    raise typer.Exit(run_and_leave(settings, chosen))


def _role(name: str) -> Role:
    try:
        return Role(name)
    except ValueError:
        raise typer.BadParameter(f"{name!r} is no role; there are: {', '.join(Role)}", param_hint="--roles") from None
