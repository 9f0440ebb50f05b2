"""python -m bench [WORKLOAD…] [--quick] [--runs N] [--systems NAME,…]; ``report`` alone only writes the report."""

import argparse
import asyncio
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from bench.bar import Bar, bars
from bench.installation import Installations
from bench.machine import MACHINE, note
from bench.options import Options
from bench.report import write_report
from bench.result import Result, save
from bench.servers import Servers
from bench.systems import chosen
from service.logs import configure_logs
from service.settings import Settings

WORKLOADS = {
    "drain": "bench.drain",
    "sleep": "bench.sleep",
    "enqueue": "bench.enqueue",
    "latency": "bench.latency",
    "million": "bench.million",
    "fires": "bench.fires",
    "idle": "bench.idle",
    "recovery": "bench.recovery",
    "memory": "bench.memory",
}
"""Name → module with ``async def measure(installation_factory, options) -> list[Result]``; in this order."""


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Verger beside its peers.")
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}, or report; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: its numbers mean nothing, and are not kept")
    parser.add_argument("--runs", type=int, help="repeat each measurement so often")
    parser.add_argument("--systems", default="", help="of the systems, separated by commas; default: all")
    given = parser.parse_args(words)
    for name in given.workloads:
        if name not in WORKLOADS and name != "report":
            parser.error(f"there is no workload {name!r}; there are: {', '.join(WORKLOADS)}, report")
    given.systems = tuple(name.strip() for name in given.systems.split(",") if name.strip())
    try:
        chosen(given.systems)
    except ValueError as error:
        parser.error(str(error))
    return given


async def _measure(names: Sequence[str], options: Options, console: Console) -> bool:
    """Measure and keep, workload by workload; returns whether everything could be measured."""
    complete = True
    with bars(console) as progress:
        async with Servers() as servers:
            for name in names:
                bar = Bar(progress, name)
                module = importlib.import_module(WORKLOADS[name])
                found: list[Result] = await module.measure(Installations(servers), bar.told(options))
                note(
                    options.results / MACHINE,
                    name,
                    {"runs": options.runs, "systems": options.systems, "failed": bar.failures},
                )
                save([each for each in found if each.samples], options.results / f"{name}.json")
                bar.end()
                _show(found, console)
                complete = complete and not bar.failures
    return complete


def _show(results: Sequence[Result], console: Console) -> None:
    for each in results:
        if each.samples:
            low, high = each.spread
            who = "-".join(part for part in (each.system, each.variant) if part)
            what = f"{each.workload}  {who}  {each.metric}: {each.median:,.6g} {each.unit}"
            console.print(f"{what} ({low:,.6g} to {high:,.6g})", markup=False, soft_wrap=True)


def main(words: Sequence[str]) -> int:
    given = _arguments(words)
    console = Console()
    configure_logs(Settings(log_level="warning"))  # of the clients in this process; the workers log to files
    options = Options(quick=given.quick, runs=given.runs, systems=given.systems)
    # What is kept compares all systems at full size; a run of less goes elsewhere, and has a report of its own.
    if given.quick or given.systems:
        name = "results-quick" if given.quick else "results-some"
        options = replace(options, results=options.results.with_name(name))
    names = [name for name in given.workloads if name != "report"] or ([] if given.workloads else list(WORKLOADS))
    # Ended from outside, it ends its servers and workers as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        complete = asyncio.run(_measure(names, options, console)) if names else True
        console.print(f"the report is {write_report(options.results)}")
    except KeyboardInterrupt:
        console.print("interrupted; what was measured so far is kept")
        return 130
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
