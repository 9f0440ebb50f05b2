"""``verger jobs``."""

from datetime import datetime
from typing import Annotated

import typer

from actors.cli.moments import relative
from actors.cli.options import Json
from actors.cli.output import plain, print_json, say, table
from actors.cli.session import talk
from actors.composition import Connection
from schemas.duration import format_duration
from schemas.job import Job
from service.freshness import jobs as look

BARS = "▁▂▃▄▅▆▇█"


def jobs(
    overdue: Annotated[
        bool, typer.Option("--overdue", help="Only those that are; the command ends with 1 then.")
    ] = False,
    json: Json = False,
) -> None:
    """How each schedule is doing: cadence, next fire, last success, durations; overdue ones first."""

    async def read(connection: Connection) -> tuple[list[Job], datetime]:
        return await look(connection.store), connection.store.clock.now()

    found, now = talk(read)
    shown = [job for job in found if job.overdue_since is not None or not overdue]
    if json:
        print_json({"jobs": [plain(job) for job in shown]})
    elif shown:
        shown.sort(key=lambda job: job.overdue_since is None)
        headers = ("ID", "TYPE", "CADENCE", "NEXT", "LAST SUCCESS", "LAST RUN", "TOOK", "OVERDUE")
        table(headers, [_row(job, now) for job in shown])
    else:
        say("No schedule is overdue." if overdue else "There are no schedules. `verger schedules apply` installs some.")
    if overdue and shown:
        raise typer.Exit(1)


def _row(job: Job, now: datetime) -> tuple[str, ...]:
    upcoming = relative(job.next_fire_at, now) if job.next_fire_at is not None else "never again"
    return (
        job.id,
        job.task_type,
        format_duration(job.cadence) if job.cadence is not None else "",
        upcoming if job.enabled else "paused",
        relative(job.last_success_at, now) if job.last_success_at is not None else "never",
        job.last_status.value if job.last_status is not None else "",
        _took(job),
        f"by {format_duration(job.overdue_by)}" if job.overdue_by is not None else "",
    )


def _took(job: Job) -> str:
    """The last one, and how the last ones compare: ``1.2s ▂▂▃▇``."""
    if not job.durations_ms:
        return ""
    most = max(job.durations_ms)
    bars = "".join(BARS[round((len(BARS) - 1) * took / most) if most else 0] for took in job.durations_ms[-10:])
    return f"{_span(job.durations_ms[-1])} {bars}"


def _span(milliseconds: int) -> str:
    return f"{milliseconds}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f}s"
