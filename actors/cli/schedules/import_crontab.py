"""``verger schedules import-crontab``: a crontab as a schedules file."""

import json
import re
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.cli.failure import REFUSED
from actors.cli.output import note, print_json
from schemas.schedule import ScheduleEntry
from service.crontab import CrontabEntry, CrontabProblem, read_crontab
from service.errors import InvalidInput
from service.schedule_file import MAX_FILE_BYTES, read_entry, to_file
from service.triggers import parse_schedule

Mapped = Mapping[str, Mapping[str, Any] | None]
"""Command, or a pattern of commands → keys of its schedule; None: it is left out on purpose."""

_UTC = "UTC"
_LONGEST_ID = 80


def import_crontab(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A crontab; - reads from stdin.")],
    commands: Annotated[
        Path | None,
        typer.Option(
            "--map", help='JSON: {"COMMAND": "TASK_TYPE"}, or further keys of the schedule instead of a type.'
        ),
    ] = None,
    task_type: Annotated[
        str | None,
        typer.Option("--type", help="Of all commands that --map does not name; they come disabled, to be looked at."),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", help="IANA name: where the crontab's times are meant; default: UTC.")
    ] = None,
    system: Annotated[
        bool | None,
        typer.Option("--system/--user", help="With a user before the command; default: for /etc/crontab and cron.d."),
    ] = None,
) -> None:
    """Print a crontab as a schedules file, which `verger schedules apply` takes. Changes nothing.

    Verger runs no shell: a task type stands for each command. In the map, a key is the whole command or a pattern such
    as "*/backup.sh *"; null leaves a command out. With --type the task gets the command as its body.

    What cannot be carried over is named on stderr with its line; the exit code is 1 then.
    """
    mapped = _map(commands) if commands is not None else {}
    ids: dict[str, int] = {}
    found: list[ScheduleEntry] = []
    missing = 0
    if system is None:
        system = _is_system(path)
    for each in read_crontab(_text(path), timezone=timezone or _UTC, system=system):
        try:
            if isinstance(each, CrontabProblem):
                raise each.error
            keys = _keys(each, mapped, task_type)
            if keys is not None:
                found.append(_schedule(each, keys, ids))
        except InvalidInput as error:
            missing += 1
            note(f"line {each.line}: {error}")
    print_json(to_file(found))
    if timezone is None and any(each.timezone == _UTC for each in found):
        note("The times are taken as UTC. Cron means those of its machine: --timezone says which.")
    if any(not each.enabled for each in found):
        note("What --map does not name is disabled: look at it, then say so in the file.")
    if missing:
        note(f"{missing} of {missing + len(found)} are missing.")
        raise typer.Exit(REFUSED)


def _keys(entry: CrontabEntry, mapped: Mapped, task_type: str | None) -> Mapping[str, Any] | None:
    """What the schedule of a command says beside its times; None: there is to be none. Raises InvalidInput."""
    patterns = [entry.command] if entry.command in mapped else [*mapped]
    for pattern in patterns:
        if pattern == entry.command or fnmatchcase(entry.command, pattern):
            return mapped[pattern]
    if task_type is None:
        raise InvalidInput("command", entry.command, "stands for no task type", "name it in --map, or give --type")
    args = {
        "command": entry.command,
        "stdin": entry.stdin,
        "user": entry.user,
        "environment": entry.environment or None,
    }
    given = {key: value for key, value in args.items() if value is not None}
    return {"task_type": task_type, "args": given, "enabled": False}


def _schedule(entry: CrontabEntry, keys: Mapping[str, Any], ids: dict[str, int]) -> ScheduleEntry:
    """Raises InvalidInput, also for an id that is taken."""
    said = {"id": _id(entry.command, ids), "schedule": entry.schedule, "timezone": entry.timezone, **keys}
    made = read_entry(json.dumps(said).encode(), said["id"])
    parse_schedule(made.schedule, made.timezone)
    if made.id in ids:
        raise InvalidInput("id", made.id, "is that of another line", "name another one in --map, or none")
    ids[made.id] = 1
    return made


def _id(command: str, taken: dict[str, int]) -> str:
    """The name of the program, with a number behind it where there are several; ``taken`` remembers from where to
    count."""
    program = next((word for word in command.split() if not re.match(r"\w+=", word)), "")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", program.rsplit("/", maxsplit=1)[-1]).strip("-.")[:_LONGEST_ID] or "command"
    found, number = name, taken.get(name, 1)
    while found in taken:
        taken[name] = number
        number += 1
        found = f"{name}-{number}"
    return found


def _map(path: Path) -> Mapped:
    """Raises InvalidInput."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput("--map", str(path), f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput("--map", str(path), f"is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput("--map", str(path), "is not an object", 'write {"COMMAND": "TASK_TYPE"}')
    found: dict[str, Mapping[str, Any] | None] = {}
    for command, keys in content.items():
        found[command] = {"task_type": keys} if isinstance(keys, str) else keys
        if not isinstance(found[command], dict | None):
            raise InvalidInput("--map", command, "is mapped to neither text, an object nor null")
    return found


def _text(path: str) -> str:
    """Raises InvalidInput."""
    try:
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if path == "-" else _read(path)
        if len(data) <= MAX_FILE_BYTES:
            return data.decode()
    except OSError as error:
        raise InvalidInput("FILE", path, f"cannot be read: {error.strerror}", "give a file, or - for stdin") from None
    except UnicodeDecodeError:
        raise InvalidInput("FILE", path, "is not UTF-8") from None
    raise InvalidInput("FILE", path, f"is larger than {MAX_FILE_BYTES} bytes")


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _is_system(path: str) -> bool:
    file = Path(path).resolve()
    return file == Path("/etc/crontab") or file.parent.name == "cron.d"
