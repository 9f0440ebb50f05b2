"""``verger dev``: all roles in one process, with whatever server is missing inside it."""

import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.cli.logs import set_up_logs
from actors.cli.output import note
from actors.cli.schedules.apply import default_source, load_file
from actors.composition import App, Role, run_and_leave
from schemas.schedule import ScheduleFile
from service.child_process import free_port
from service.errors import InvalidInput
from service.registry import Registry, load
from service.schedule_entry import Rules
from service.settings import MEMORY_BROKER, Settings, hide_password, load_settings
from service.timetable import Plan, Timetable, plan as plan_file
from service.version import VERSION


def dev(
    sessions: Annotated[
        str | None, typer.Option("--sessions", help="Folder of session files that sessions.collect reads.")
    ] = None,
    schedules: Annotated[str | None, typer.Option("--schedules", help="Schedules file to apply at the start.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Seed the demo's data at the start, and run every schedule of the file once.")
    ] = False,
) -> None:
    """Run everything in one process, for development; Ctrl-C ends it, the data stays.

    Starts a private MongoDB in VERGER_DATA_DIR unless VERGER_MONGODB_URL names one, and keeps the queues in memory
    unless VERGER_AMQP_URL names a broker. The schedules file decides: what it created earlier and does not say any more
    is deleted, and what is new runs once at the start. With --demo, sessions are collected from its own files unless
    --sessions names others.
    """
    settings = _settings(sessions, demo=demo)
    set_up_logs(settings, log_format="console")
    file = None
    if schedules is not None:
        file = load_file(schedules)
        # Before anything is started: what is wrong with it is known in a moment.
        plan_file(file, [], None, False, rules=_rules(load(settings.actors), settings), now=datetime.now(UTC))

    async def ready(app: App) -> None:
        if demo:
            from actors.demo.seed import seed

            await seed(app.settings, app.store.clock.now())
        plan = None if file is None else await apply(app, file, default_source(schedules or ""))
        note(banner(app, plan, schedules))
        if plan is not None and file is not None:
            await run_now(app, plan, file, every=demo)

    raise typer.Exit(run_and_leave(settings, list(Role), ready))


def _settings(sessions: str | None, *, demo: bool) -> Settings:
    settings = load_settings()
    changes: dict[str, Any] = {}
    if "api_port" not in settings.model_fields_set:
        changes["api_port"] = free_port(settings.api_port)  # another one may run here already
    if sessions is not None:
        changes["claude_projects"] = folder = Path(sessions).expanduser()
        if not folder.is_dir():
            raise InvalidInput("--sessions", sessions, "is no folder", "give one, such as ~/.claude/projects")
    elif demo:
        from actors.demo.sessions import FOLDER

        changes["claude_projects"] = settings.data_dir / FOLDER
    return settings.model_copy(update=changes)


def _rules(registry: Registry, settings: Settings) -> Rules:
    return Rules(registry, max_bytes=settings.max_message_bytes)


async def apply(app: App, file: ScheduleFile, source: str) -> Plan:
    table = Timetable(app.store.schedules, app.client, app.store.clock, _rules(app.registry, app.settings))
    plan = await table.plan(file, source=source, prune=True)
    await table.apply(plan)
    return plan


async def run_now(app: App, plan: Plan, file: ScheduleFile, *, every: bool) -> None:
    """What is new, or ``every`` one, runs once now, in the order of the file: so that there is work to see."""
    order = [entry.id for entry in file.schedules]
    known = [*(change.after for change in plan.update), *plan.unchanged] if every else []
    chosen = [*plan.create, *(schedule for schedule in known if schedule.enabled)]
    for schedule in sorted(chosen, key=lambda schedule: order.index(schedule.id)):
        task = await app.client.run_schedule(schedule)
        try:
            await app.client.wait(task.id, timedelta(seconds=10))
        except TimeoutError:
            continue  # it runs on; the next one does not wait longer


def banner(app: App, plan: Plan | None, path: str | None) -> str:
    """What runs here, and what to try."""
    settings = app.settings
    broker = "in this process" if settings.amqp_url == MEMORY_BROKER else hide_password(settings.amqp_url)
    verger = _own_name()
    lines = [
        "",
        f"Verger {VERSION} is ready: {', '.join(sorted(app.roles))} in one process.",
        "",
        f"  data       {settings.data_dir}",
        f"  MongoDB    {app.store.address}",
        f"  broker     {broker}",
        f"  admin API  {app.api.url if app.api is not None else 'off'}",
        f"  types      {sum(not handler.internal for handler in app.registry)} from {', '.join(settings.actors)}",
        f"  schedules  {_applied(plan, path)}",
        "",
        "In a second terminal, in this folder:",
    ]
    if settings.data_dir != Settings.model_fields["data_dir"].default:
        lines.append(f"  export VERGER_DATA_DIR={settings.data_dir.absolute()}")
    lines += [f"  {verger} {example}" for example in _examples(app, plan)]
    return "\n".join([*lines, "Ctrl-C ends it; the data stays.", ""])


def _applied(plan: Plan | None, path: str | None) -> str:
    if plan is None:
        return "as stored (--schedules FILE applies some)"
    said = len(plan.create) + len(plan.update) + len(plan.unchanged)
    kinds = (("new", plan.create), ("changed", plan.update), ("deleted", plan.delete))
    changes = ", ".join(f"{len(group)} {name}" for name, group in kinds if group)
    return f"{said} from {path} ({changes or 'unchanged'})"


def _examples(app: App, plan: Plan | None) -> list[str]:
    first = next(iter(sorted(handler.task_type for handler in app.registry)))
    shown = "sessions.collect" if app.registry.find("sessions.collect") else first
    schedules = ["schedules list"] if plan is not None else ["schedules apply FILE"]
    return ["actors", *schedules, f"enqueue {shown} --wait", "tasks list", "doctor"]


def _own_name() -> str:
    """As the reader can type it: ``verger`` where the PATH leads to this program, else its path."""
    program = Path(sys.argv[0])
    if program.name != "verger":
        return "verger"
    found = shutil.which("verger")
    return "verger" if found and Path(found).samefile(program) else str(program)
