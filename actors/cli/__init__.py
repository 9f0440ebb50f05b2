"""The command ``verger``. Every module here is imported when its command is asked for."""

import sys


def main() -> None:
    """Run the command line; ends the process. Exit codes: see ``actors/cli/failure.py``."""
    from actors.cli.app import app
    from actors.cli.failure import report

    try:
        app(prog_name="verger")
    except Exception as error:
        # Whatever it is: people get a sentence, and the traceback when they ask for it.
        sys.exit(report(error))
