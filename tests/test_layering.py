"""The house stands: imports point leftwards only, and each driver is known in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("schemas", "service", "actors")
"""Each may import those before it."""

FAMILIES = ("sessions", "memories", "files", "graph", "vectors")
"""The maintenance actors: they work on collections of their own."""

STORE = ("service/store/", "actors/maintenance/", "actors/demo/", *(f"actors/{family}/" for family in FAMILIES))
BROKER = ("service/broker/",)
DRIVERS = {
    "motor": STORE,
    "pymongo": STORE,
    "bson": STORE,
    "gridfs": STORE,
    "aio_pika": BROKER,
    "aiormq": BROKER,
    "pamqp": BROKER,
    "apscheduler": ("service/triggers.py", "actors/scheduler/", "actors/scheduler.py"),
    "fastapi": ("actors/api/",),
    "starlette": ("actors/api/",),
    "uvicorn": ("actors/api/server.py", "actors/api/connection.py"),
    "aiohttp": ("actors/maintenance/", "actors/memories/summariser/"),
    "lancedb": ("actors/maintenance/vector_store/",),
    "pyarrow": ("actors/maintenance/vector_store/",),
    "fiftyone": (),
    "pika": (),
}
"""Package → the only places that import it."""

ADAPTERS = {
    "service.store.mongo": (
        "service/store/mongo/",
        "actors/composition.py",
        "actors/embedded.py",
    ),
    "service.broker.rabbitmq": ("service/broker/rabbitmq", "actors/composition.py"),
    "service.broker.memory": ("service/broker/memory", "actors/testing.py", "actors/composition.py"),
}
"""Adapter → the only places that name it; everybody else knows its port."""

NAMELESS = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "shared"}
"""A function lives with its idea, not in a drawer."""


def imported(source: str) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from (f"{module}.{name.name}" for name in names)
            case ast.ImportFrom(level=level):
                yield "." * level


def faults(path: str, source: str) -> list[str]:
    """What is wrong with the imports of the file at ``path``, relative to the root."""
    found = []
    right = LAYERS[LAYERS.index(path.split("/", maxsplit=1)[0]) + 1 :]
    for name in imported(source):
        package = name.split(".")[0]
        if package in right:
            found.append(f"{path} imports {name}: imports point leftwards in {' ← '.join(LAYERS)}")
        if package in ("tests", "bench", "examples", ""):
            found.append(f"{path} imports {name or 'relatively'}")
        for limited, places in (DRIVERS | ADAPTERS).items():
            if f"{name}.".startswith(f"{limited}.") and not path.startswith(places):
                found.append(f"{path} imports {name}, which belongs to {', '.join(places) or 'nobody'}")
    return found


def files() -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def test_every_import_is_where_it_belongs() -> None:
    found = [
        fault
        for path in files()
        for fault in faults(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]

    assert files()
    assert not found, "\n".join(found)


def test_no_file_is_a_drawer() -> None:
    drawers = [str(path) for path in files() if NAMELESS & set(path.relative_to(ROOT).with_suffix("").parts)]

    assert not drawers


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("schemas/task.py", "from service.errors import ConfigError"),
        ("service/client.py", "def f():\n    import actors.worker"),
        ("service/client.py", "from service import store\nimport motor.motor_asyncio"),
        ("service/client.py", "from service.store.mongo import MongoStore"),
        ("service/client.py", "from service.store import mongo"),
        ("actors/worker/heartbeat.py", "from pymongo.errors import AutoReconnect"),
        ("actors/worker/handler.py", "import aio_pika"),
        ("actors/worker/handler.py", "from . import context"),
        ("actors/api.py", "from apscheduler.schedulers.asyncio import AsyncIOScheduler"),
        ("actors/api.py", "from tests.servers import MongoServer"),
    ],
)
def test_a_misplaced_import_is_found(path: str, source: str) -> None:
    assert faults(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("actors/worker/handler.py", "from service.store.port import TaskStore\nfrom schemas.task import Task"),
        ("actors/sessions/collect.py", "from pymongo import UpdateOne"),
        ("actors/scheduler/scheduler.py", "from apscheduler.schedulers.asyncio import AsyncIOScheduler"),
        ("actors/composition.py", "from service.store.mongo import MongoStore"),
        ("service/store/mongo/claims.py", "from service.store.mongo.indexes import INDEXES\nfrom bson import ObjectId"),
    ],
)
def test_a_proper_import_is_let_through(path: str, source: str) -> None:
    assert not faults(path, source)
