"""``verger doctor``: is everything there that Verger needs, and what to do where it is not."""

import asyncio
from dataclasses import asdict

import typer

from actors.cli.checks import FAIL, Finding, examine
from actors.cli.failure import REFUSED
from actors.cli.options import Json
from actors.cli.output import print_json, say, styled


def doctor(json: Json = False) -> None:
    """Check settings, handlers, servers and this machine; ends with 1 if anything fails.

    It changes nothing but what a start would: indexes, queues and exchanges that are missing are made.
    """
    findings = asyncio.run(examine())
    failed = any(finding.status == FAIL for finding in findings)
    if json:
        print_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            _show(finding)
    if failed:
        raise typer.Exit(REFUSED)


def _show(finding: Finding) -> None:
    styled(f"{finding.status:<5}", finding.status, f"{finding.name:<10} {finding.detail}")
    if finding.todo:
        say(f"{'':<16} → {finding.todo}")
