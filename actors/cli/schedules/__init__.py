"""``verger schedules``."""

import typer

from actors.cli.lazy import LazyGroup


class Schedules(LazyGroup):
    places = {
        "list": "actors.cli.schedules.look:list_schedules",
        "show": "actors.cli.schedules.look:show",
        "apply": "actors.cli.schedules.apply:apply",
        "pause": "actors.cli.schedules.change:pause",
        "resume": "actors.cli.schedules.change:resume",
        "run": "actors.cli.schedules.change:run",
        "explain": "actors.cli.schedules.explain:explain",
        "backfill": "actors.cli.schedules.backfill:backfill",
        "import-crontab": "actors.cli.schedules.import_crontab:import_crontab",
    }


app = typer.Typer(cls=Schedules, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def schedules() -> None:
    """Look at schedules, change them, and see when they fire."""
