"""A crontab, as cron reads it: which lines say when to run what (pure).

    # minute hour day-of-month month day-of-week command
    MAILTO=ops@example.org
    CRON_TZ=Europe/Berlin
    30 2 * * mon-fri  /usr/local/bin/report --all%these words go to its stdin
    @daily            /usr/local/bin/clean

A schedule of cron is one of ours, word by word: in both, either of day-of-month and day-of-week is enough if both are
restricted, and both must match if one begins with ``*``. What the kinds of cron read in different ways is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.errors import SHOWN, InvalidInput
from service.triggers import parse_schedule, zone_of

_SETTING = re.compile(r"""(?P<name>[A-Za-z_]\w*|"[^"]+"|'[^']+')\s*=\s*(?P<value>.*)""", re.ASCII)
_NICKNAMES = {
    **{f"@{name}": f"@{name}" for name in ("yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly")},
    "@every_minute": "* * * * *",
}
_CRONS_OWN = frozenset({"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"})
"""Settings that are meant for cron, not for the commands: how it sends mail."""
_STEP_OF_ONE = re.compile(r"(?:^|,)(?P<start>\w+)/(?P<step>\d+)")
_NAME = re.compile(r"[A-Za-z_][\w.-]*\$?")
_FIELDS, _USER = 5, 1
MOST_SETTINGS = 1000
"""Each line has all that stand above it."""


@dataclass(frozen=True, slots=True)
class CrontabEntry:
    """One line that runs something."""

    line: int
    schedule: str
    """Checked, in our words."""
    timezone: str
    command: str
    stdin: str | None = None
    """What the line gives the command to read: all behind its first ``%``."""
    user: str | None = None
    """In the system's format."""
    environment: dict[str, str] = field(default_factory=dict)
    """What lines above it set."""


@dataclass(frozen=True, slots=True)
class CrontabProblem:
    """One line that cannot be read, or has no meaning here."""

    line: int
    error: InvalidInput


def read_crontab(text: str, *, timezone: str, system: bool = False) -> Iterator[CrontabEntry | CrontabProblem]:
    """What each line says, in order; comments and settings say nothing by themselves.

    Args:
        timezone: of lines that no ``CRON_TZ`` stands above.
        system: with a user's name before the command, as in ``/etc/crontab`` and ``/etc/cron.d``.

    Raises:
        InvalidInput: ``timezone`` is none.
    """
    zone_of(timezone)
    environment: dict[str, str] = {}
    said = False  # whether an entry has these settings, so that others need a copy
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            if (setting := _SETTING.fullmatch(line)) is None:
                yield _entry(number, line, timezone, system, environment)
                said = True
                continue
            name, value = _unquoted(setting["name"]), _unquoted(setting["value"].strip())
            if name == "CRON_TZ":
                zone_of(value)
                timezone = value
            elif name not in _CRONS_OWN:
                if len(environment) >= MOST_SETTINGS and name not in environment:
                    raise InvalidInput("setting", name, f"is more than {MOST_SETTINGS}", "split the file")
                environment, said = dict(environment) if said else environment, False
                environment[name] = value
        except InvalidInput as error:
            yield CrontabProblem(number, error)


def _entry(number: int, line: str, timezone: str, system: bool, environment: dict[str, str]) -> CrontabEntry:
    count = 1 if line.startswith("@") else _FIELDS
    words = line.split(maxsplit=count + (_USER if system else 0))
    if len(words) <= count + (_USER if system else 0):
        after = "when to run, the user and the command" if system else "when to run, and the command"
        raise InvalidInput("line", line, "is too short", f"write {after}")
    schedule = _schedule(words[:count])
    parse_schedule(schedule, timezone)
    command, stdin = _split(words[-1])
    user = words[count] if system else None
    if user is not None and not _NAME.fullmatch(user):
        raise InvalidInput("user", user, "is no user's name", "give --user if the lines have none")
    return CrontabEntry(number, schedule, timezone, command, stdin, user, environment)


def _schedule(words: list[str]) -> str:
    """Raises InvalidInput where cron's words have no meaning here, or several."""
    if words[0].startswith("@"):
        if words[0].lower() == "@reboot":
            raise InvalidInput("schedule", words[0], "is no time", "run it where the machine, or the pod, starts")
        if words[0].lower() not in _NICKNAMES:
            raise InvalidInput("schedule", words[0], "is not known", f"there are: {', '.join(_NICKNAMES)}")
        return _NICKNAMES[words[0].lower()]
    words = [words[0].removeprefix("-"), *words[1:]]  # cronie: do not log it
    for word in words:
        if match := _STEP_OF_ONE.search(word):
            start = match["start"][:SHOWN]
            fix = f"write {start}, or {start}-END/{match['step'][:SHOWN]}"
            raise InvalidInput("schedule", word, "has a step without a range, which each cron reads its own way", fix)
    return " ".join(words)


def _split(rest: str) -> tuple[str, str | None]:
    """The command and what it reads: ``%`` ends lines, ``\\%`` is a percent sign."""
    lines = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", rest)]
    return lines[0].strip(), "\n".join(lines[1:]) if len(lines) > 1 else None


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
