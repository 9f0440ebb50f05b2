"""A function in a process of its own, with a limit of processor time and of memory: what hangs or grows dies there.

python -m tests.hostile.child MODULE FUNCTION SECONDS MEGABYTES
"""

import importlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.code import ROOT


def limited(function: Callable[[], Any], *, seconds: int = 60, megabytes: int = 1024) -> Any:
    """What a function of a test's module answers (JSON); an error if it fails, or takes more than it may.

    ``seconds`` of the processor tell a hang from a slow machine.
    """
    module, name = function.__module__, function.__name__
    done = subprocess.run(
        [sys.executable, "-m", __name__, module, name, str(seconds), str(megabytes)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def main(module: str, name: str, seconds: str, megabytes: str) -> None:
    function = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(megabytes) * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps(function()))


if __name__ == "__main__":
    main(*sys.argv[1:])
