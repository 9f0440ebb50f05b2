"""What the numbers depend on: the machine, and the version of everything that took part."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.postgres import programs
from bench.systems import AGENDA, BIN
from service.mongod import find_mongod
from service.version import VERSION

OURS = ("aio-pika", "aiormq", "motor", "pymongo", "pydantic")
PEERS = (
    *("celery", "kombu", "amqp", "dramatiq", "pika", "taskiq", "taskiq-aio-pika", "taskiq-redis", "faststream"),
    *("procrastinate", "psycopg", "aio-pika", "aiormq", "pymongo", "redis"),
)
MACHINE = "machine.json"
"""Its file, beside the results."""
_ASK = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def describe() -> dict[str, Any]:
    """Name → version or size, in groups; what is not there is left out."""
    mongod = os.environ.get("VERGER_MONGOD")
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory": _memory(),
            "kernel": f"{platform.system()} {platform.release()}",
            "system": _system(),
            "load before": round(os.getloadavg()[0], 2),
        },
        "servers": {
            "MongoDB": _version(str(find_mongod(Path(mongod) if mongod else None)), "--version"),
            "RabbitMQ": _rabbitmq(),
            "PostgreSQL": _postgresql(),
            "Redis": _version("redis-server", "--version"),
        },
        "Verger": {
            "Verger": VERSION,
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in OURS},
        },
        "peers": {**_peers(), **_node()},
    }


def note(path: Path, workload: str, runs: dict[str, Any]) -> None:
    """Keep the description, and when this workload was measured."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    measured = kept.get("measured", {})
    described = describe()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    measured[workload] = {"at": at, "processor": described["machine"]["processor"], **runs}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**described, "measured": measured}, indent=1) + "\n")


def _peers() -> dict[str, str]:
    if not (BIN / "python").exists():
        return {}
    found: dict[str, str] = json.loads(_said(str(BIN / "python"), "-c", _ASK, *PEERS) or "{}")
    return found


def _node() -> dict[str, str]:
    packages = AGENDA / "node_modules"
    names = ("agenda", "@agendajs/mongo-backend", "mongodb")
    found = {name: packages / name / "package.json" for name in names}
    versions = {
        f"{name} (npm)": json.loads(path.read_text())["version"] for name, path in found.items() if path.exists()
    }
    return {"Node": _version("node", "--version"), **versions} if versions else {}


def _rabbitmq() -> str:
    folders = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return folders[-1].name.rpartition("-")[2] if folders else _version("rabbitmqctl", "version")


def _postgresql() -> str:
    try:
        return _version(str(programs() / "postgres"), "--version")
    except RuntimeError:
        return "none"


def _version(*command: str) -> str:
    found = re.search(r"\d+(\.\d+)+", _said(*command))
    return found[0] if found else "none"


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30).stdout
    except OSError:
        return ""


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory() -> str:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return f"{int(found[1]) / 2**20:.1f} GiB" if found else "unknown"


def _system() -> str:
    found = re.search(r'^PRETTY_NAME="(.+)"$', Path("/etc/os-release").read_text(), re.MULTILINE)
    return found[1] if found else platform.platform()
