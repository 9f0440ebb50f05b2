"""``verger run``."""

from typing import Annotated

import typer

from actors.cli.logs import set_up_logs
from actors.cli.processes import MOST_PROCESSES, run_processes
from actors.composition import ENGINE, Role, run_and_leave
from service.settings import load_settings


def run(
    roles: Annotated[
        str | None,
        typer.Option(
            "--roles", help=f"Of {', '.join(Role)}, separated by commas; default: VERGER_ROLES, or all that fit."
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option("--processes", min=1, max=MOST_PROCESSES, help="Processes on this machine; each runs the roles."),
    ] = 1,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True, help="A child of --processes.")] = False,
) -> None:
    """Run roles until SIGTERM, in this process or in several; a graceful stop burns no attempt."""
    named = None if roles is None else _named(roles)
    settings = load_settings()
    # Several processes cannot listen on one port: the API is left to a process of its own.
    every = list(Role) if processes == 1 else sorted(ENGINE)
    chosen = named or [Role(name) for name in settings.roles] or every
    if processes > 1 and Role.API in chosen:
        raise typer.BadParameter("api listens on one port: run it without --processes", param_hint="--roles")
    set_up_logs(settings)
    if processes > 1:
        raise typer.Exit(run_processes(settings, chosen, processes))
    raise typer.Exit(run_and_leave(settings, chosen, supervised=supervised))


def _named(roles: str) -> list[Role]:
    names = [name.strip() for name in roles.split(",") if name.strip()]
    for name in names or [""]:
        if name not in list(Role):
            said = f"{name!r} is no role" if name else "names no role"
            raise typer.BadParameter(f"{said}; there are: {', '.join(Role)}", param_hint="--roles")
    return [Role(name) for name in names]
