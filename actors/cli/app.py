"""The root of the command line."""

from typing import Annotated, Any

import typer

from actors.cli.failure import report
from actors.cli.lazy import LazyGroup
from service.errors import VergerError


class Root(LazyGroup):
    """Errors of ours end as a sentence and an exit code."""

    places = {
        "dev": "actors.cli.dev:dev",
        "run": "actors.cli.run:run",
        "enqueue": "actors.cli.enqueue:enqueue",
        "tasks": "actors.cli.tasks:app",
        "dead": "actors.cli.dead:app",
        "events": "actors.cli.events:app",
        "schedules": "actors.cli.schedules:app",
        "jobs": "actors.cli.jobs:jobs",
        "actors": "actors.cli.actors:actors",
        "queues": "actors.cli.queues:queues",
        "workers": "actors.cli.workers:workers",
        "keys": "actors.cli.keys:app",
        "audit": "actors.cli.audit:audit",
        "archive": "actors.cli.archive:app",
        "backup": "actors.cli.backup:app",
        "demo": "actors.cli.demo:app",
        "doctor": "actors.cli.doctor:doctor",
        "schema": "actors.cli.schema:schema",
        "settings": "actors.cli.settings:settings",
        "reference": "actors.cli.reference:reference",
    }

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VergerError as error:
            raise typer.Exit(report(error)) from None


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from service.version import VERSION

        print(f"verger {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for machines; also after a command.")] = False,
) -> None:
    """Verger: a scheduler and task queue on RabbitMQ and MongoDB.

    Settings come from VERGER_* variables (docs/configuration.md). Without any, commands find the instance that
    `verger dev` runs in this folder.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 a server cannot be reached, 4 settings or machine not
    ready.
    """
