"""One Verger process, as ``verger run`` starts it; its settings come from the environment.

python -m tests.promises.process scheduler,worker
"""

import sys

from actors.composition import Role, run_and_leave
from service.logs import configure_logs
from service.settings import load_settings
from tests.promises.wrong_clock import mend_sleep


def main() -> int:
    mend_sleep()
    settings = load_settings()
    configure_logs(settings)
    return run_and_leave(settings, [Role(role) for role in sys.argv[1].split(",")])


if __name__ == "__main__":
    sys.exit(main())
