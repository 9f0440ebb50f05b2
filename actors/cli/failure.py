"""How a command fails: one sentence on stderr, and an exit code that a script can tell apart.

0  done
1  refused or failed: a wrong value, no such thing, a conflict, a task that did not complete
2  wrong usage of the command line
3  a server cannot be reached
4  the settings, the handlers or this machine are not ready
130  interrupted
"""

import os
import sys
import traceback

from service.errors import ConfigError, Unavailable, VergerError

REFUSED, UNREACHABLE, UNREADY = 1, 3, 4


def report(error: BaseException) -> int:
    """Say it on stderr; returns the exit code."""
    if os.environ.get("VERGER_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    if isinstance(error, VergerError):
        complain(str(error))
    else:
        complain(f"unexpected {type(error).__name__}: {error} (VERGER_LOG_LEVEL=debug shows where)")
    match error:
        case ConfigError():
            return UNREADY
        case Unavailable():
            return UNREACHABLE
        case _:
            return REFUSED


def complain(sentence: str) -> None:
    """One line on stderr; what a terminal would obey is shown, not sent."""
    sys.stdout.flush()
    print(f"verger: {visible(' '.join(sentence.splitlines()))}", file=sys.stderr)


def visible(text: str) -> str:
    """The text with its control characters escaped: ids and messages come from strangers. Lines stay lines."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
