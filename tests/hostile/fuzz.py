"""Look for bytes that crash, hang or bloat what reads them, guided by the code that they reach (atheris).

python -m tests.hostile.fuzz [HARNESS ...] [--seconds 60]

What reached new code is kept in .cache/fuzz, where the next run begins.
"""

import argparse
import re
import subprocess
import sys

from rich.console import Console
from rich.table import Column, Table

from tests.hostile.code import ROOT
from tests.hostile.harnesses import HARNESSES

KEPT = ROOT / ".cache" / "fuzz"
LIMITS = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", "-print_final_stats=1")
"""Seconds and megabytes that one input may take, and its bytes."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("harnesses", nargs="*", metavar="HARNESS", help=f"of {', '.join(HARNESSES)}; all unless named")
    parser.add_argument("--seconds", type=int, default=60, help="for each (60)")
    told = parser.parse_args(arguments)
    if unknown := set(told.harnesses) - set(HARNESSES):
        parser.error(f"there is no harness {min(unknown)!r}; there are {', '.join(HARNESSES)}")
    console = Console()
    table = Table("Harness", "Inputs", "Branches", Column("Found", overflow="fold"))
    failed = 0
    for name in told.harnesses or HARNESSES:
        with console.status(f"{name}: {told.seconds} s"):
            code, said = fuzz(name, told.seconds)
        inputs, branches = (_last(pattern, said) for pattern in (r"executed_units: *(\d+)", r"cov: (\d+)"))
        find = _last(rf"Test unit written to {re.escape(str(ROOT))}/(\S+)", said) if code else "nothing"
        table.add_row(name, inputs, branches, find)
        if code:
            failed += 1
            console.print(said[-3000:], markup=False)
    console.print(table)
    return 1 if failed else 0


def fuzz(name: str, seconds: int) -> tuple[int, str]:
    """In a process of its own, which ends at the first find: its exit code, and what it said."""
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(HARNESSES[name].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = (f"-max_total_time={seconds}", f"-artifact_prefix={corpus}-", *LIMITS)
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.fuzz_one", name, str(corpus), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return str(found[-1]) if found else "?"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
