"""The command ``verger``. Every module here is imported when its command is asked for."""

import sys
from contextvars import ContextVar

whole_program: ContextVar[bool] = ContextVar("whole_program", default=False)
"""Whether a command is all that this process does: called inside another program, it leaves that one's logs alone."""


def main() -> None:
    """Run the command line; ends the process. Exit codes: see ``actors/cli/failure.py``."""
    mark = whole_program.set(True)
    try:
        from actors.cli.app import app

        app(prog_name="verger")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # Whatever it is: people get a sentence, and the traceback when they ask for it.
        from actors.cli.failure import report

        sys.exit(report(error))
    finally:
        whole_program.reset(mark)
