"""One Verger process, as ``verger run`` starts it; its settings come from the environment.

python -m tests.promises.process scheduler,worker
"""

import asyncio
import sys

from actors.composition import Role, serve
from service.logs import configure_logs
from service.settings import load_settings


def main() -> int:
    settings = load_settings()
    configure_logs(settings)
    return asyncio.run(serve(settings, [Role(role) for role in sys.argv[1].split(",")]))


if __name__ == "__main__":
    sys.exit(main())
