"""Every error Verger raises.

VergerError
├── ConfigError            settings or registration are wrong; fix and start again
├── InvalidInput           a value from outside is wrong; never retried
│   ├── InvalidMessage
│   ├── InvalidSchedule
│   └── PayloadRefused     too large, too deep, or not storable
├── NotFound               no such task, schedule or type
├── Conflict               the state has moved on; look again
│   └── Outdated           it is not what the caller says it is
└── Unavailable            a server cannot be reached; retried with backoff
    ├── StoreUnavailable
    └── BrokerUnavailable
"""

SHOWN = 120
"""How many characters of a bad value, and of the name of its field, an error shows."""


class VergerError(Exception):
    """Root of all errors of Verger."""


class ConfigError(VergerError):
    """The settings or the registered handlers are wrong; the message names the fix."""


class InvalidInput(VergerError):
    """A value from outside is wrong."""

    def __init__(self, field: str, value: object, problem: str, fix: str = "") -> None:
        try:
            shown = value if isinstance(value, str) else repr(value)
        except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
            shown = "…"
        # A field may be a stranger's too: a key that is none of ours.
        self.field, self.problem, self.fix = _cut(field), problem, fix
        self.value = _cut(shown)
        super().__init__(f"{self.field}: {self.value!r} {problem}" + (f"; {fix}" if fix else ""))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class InvalidMessage(InvalidInput):
    """A message that is no task."""


class InvalidSchedule(InvalidInput):
    """A schedule that cannot be kept."""

    index: int | None = None
    """Which entry of a file it is, from 0."""
    schedule_id: str | None = None
    """The id of that entry."""
    line: int | None = None
    """Where the file is no JSON, from 1."""


class PayloadRefused(InvalidInput):
    """A body or a result that is too large, too deep, or holds what the store cannot keep."""


class NotFound(VergerError):
    """There is no such thing."""


class Conflict(VergerError):
    """The state has moved on since it was read."""


class Outdated(Conflict):
    """The state is not the one that the caller has seen: he named its revision."""


class Unavailable(VergerError):
    """A server cannot be reached."""


class StoreUnavailable(Unavailable):
    """The store did not answer; what was asked may or may not have happened."""


class BrokerUnavailable(Unavailable):
    """The broker did not answer."""
