"""Run the fault matrix and write ``docs/fault-matrix.md``; arguments go to pytest. ``--page`` writes the page alone.

python -m tests.faults [--page] [pytest arguments]
"""

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.kit.page import page
from tests.faults.kit.record import RECORDS, RUN, read

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/faults/records.jsonl"
PAGE = ROOT / "docs/fault-matrix.md"
WHOLE = ["tests/faults", "tests/hostile", "tests/contract/broker"]


def main(arguments: list[str]) -> int:
    if "--page" not in arguments:
        os.environ[RECORDS] = str(KEPT)
        os.environ[RUN] = datetime.now(UTC).isoformat(timespec="seconds")
        named = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
        code = int(pytest.main(["--long", *([] if named else WHOLE), *arguments]))
        if code != pytest.ExitCode.OK:
            return code
        KEPT.write_text("".join(json.dumps(asdict(result)) + "\n" for result in read(KEPT)))
    PAGE.write_text(page(read(KEPT)))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
