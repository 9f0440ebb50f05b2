"""The family ``sessions``: session files of three projects, some old enough to be archived."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from uuid import NAMESPACE_URL, uuid5

from actors.demo.part import DemoFile
from actors.demo.tenants import TENANTS, Tenant

FOLDER = "demo/sessions"
"""Below VERGER_DATA_DIR."""
AGES = (1, 3, 9, 10, 17, 45, 80)
"""In days: the last ones become weekly and monthly archives."""


def files(now: datetime) -> list[DemoFile]:
    return [_file(tenant, days, now) for tenant in TENANTS for days in AGES]


def _file(tenant: Tenant, days: int, now: datetime) -> DemoFile:
    # By whole days: seeded again on the same day, a file that was archived meanwhile is the same.
    began = datetime.combine(now.date() - timedelta(days=days), time(hour=9), UTC)
    session = str(uuid5(NAMESPACE_URL, f"{tenant.id}/{days}"))
    cwd = f"/home/ada/{tenant.id}"
    lines = [json.dumps(line) + "\n" for line in _lines(tenant, days, session, cwd, began)]
    if days == AGES[0]:
        lines.append('{"type": "user", "message": {"role": "us')  # half-written: it waits for its end
    path = f"{FOLDER}/{cwd.replace('/', '-')}/{session}.jsonl"
    return DemoFile(path, "".join(lines).encode(), began + timedelta(hours=1))


def _lines(tenant: Tenant, days: int, session: str, cwd: str, began: datetime) -> Iterable[dict[str, object]]:
    for number in range(4):
        said = tenant.topic[(days + number) % len(tenant.topic)]
        for role, text in (("user", f"Do you remember this? {said}"), ("assistant", f"I do: {said}")):
            yield {
                "type": role,
                "uuid": str(uuid5(NAMESPACE_URL, f"{session}/{number}/{role}")),
                "sessionId": session,
                "cwd": cwd,
                "timestamp": (began + timedelta(minutes=number)).isoformat(),
                "message": {"role": role, "content": text},
            }
