"""Run the fault matrix and write ``docs/fault-matrix.md``; arguments go to pytest. ``--page`` writes the page alone.

python -m tests.faults [--page] [pytest arguments]
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.faults.kit.page import page
from tests.faults.kit.record import RECORDS, RUN, read

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/faults/records.jsonl"
PAGE = ROOT / "docs/fault-matrix.md"
WHOLE = [
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests/faults").glob("test_*.py")),
    "tests/hostile",
    "tests/contract/broker",
]
MIDDLE = WHOLE.index("tests/faults/test_protocol_machine.py")
"""By time."""


def main(arguments: list[str]) -> int:
    if "--page" not in arguments:
        os.environ[RECORDS] = str(KEPT)
        os.environ[RUN] = datetime.now(UTC).isoformat(timespec="seconds")
        named = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
        code = int(pytest.main(["--long", *arguments])) if named else run_all(arguments)
        if code != pytest.ExitCode.OK:
            return code
        KEPT.write_text("".join(json.dumps(asdict(result)) + "\n" for result in read(KEPT)))
    PAGE.write_text(page(read(KEPT)))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def run_all(arguments: list[str]) -> int:
    """Two halves at once, each with servers of its own: most of the time is spent waiting for what recovers."""
    with TemporaryFile("w+") as output:
        command = [sys.executable, "-m", "pytest", "--long", *arguments]
        beside = subprocess.Popen([*command, *WHOLE[MIDDLE:]], stdout=output, stderr=subprocess.STDOUT)
        try:
            code = subprocess.run([*command, *WHOLE[:MIDDLE]], check=False).returncode
            print("\nThe other half, which ran beside it:", flush=True)
            beside.wait()
        finally:
            beside.terminate()
            beside.wait()
            output.seek(0)
            print(output.read())
    return code or beside.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
