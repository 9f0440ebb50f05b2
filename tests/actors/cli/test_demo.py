"""``verger demo seed`` and ``verger dev --demo``: data on which every maintenance actor has something to do."""

import json
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson.codec_options import CodecOptions

from actors.cli.dev import apply, run_now
from actors.cli.schedules.apply import load_file
from actors.demo.seed import DOCUMENTS, FILES, Written, seed
from actors.demo.sessions import FOLDER
from actors.embedded import read_instance
from actors.testing import sandbox
from schemas.base import to_instant
from schemas.task import TaskStatus
from service.settings import Settings
from service.store.port import TaskFilter
from tests.actors.cli.conftest import ROOT, good, spawn, verger
from tests.conftest import DatabaseClient

MODULES = tuple(f"actors.{family}" for family in ("sessions", "memories", "files", "graph", "vectors"))
SCHEDULED = [each["task_type"] for each in json.loads((ROOT / "examples/schedules.json").read_text())["schedules"]]
BODIES: dict[str, dict[str, Any]] = {
    "memories.sync": {"integrationId": "demo-crossword-folder"},
    "memories.siem_forward_tenant": {"tenantId": "demo-almanac"},
    "memories.embed": {},
    "files.reindex": {"path": "/demo/"},
    "vectors.delete": {"conversationGroupId": "demo-lantern-group"},
    "webhook.deliver": {"endpointId": "demo-webhook", "payload": {}},
}
"""Of the types that have no schedule."""
COUNTED: dict[str, dict[str, int]] = {
    "sessions.collect": {"inserted": 168, "malformed": 0},
    "sessions.index": {"indexed": 168, "failed": 0},
    "sessions.backup": {"databases": 2},
    "sessions.archive": {"archived": 15, "failed_files": 0},
    "sessions.compact": {"tables": 2},
    "memories.summarize": {"summarised": 3, "skipped_unchanged": 1},
    "memories.forget": {"decayed": 50, "forgotten": 3},
    "memories.tier": {"hot_to_warm": 10, "hot_to_cold": 6, "warm_to_cold": 6, "warm_to_hot": 3, "cold_to_hot": 3},
    "memories.retain": {"archived": 3, "soft_deleted": 3, "hard_delete_pending": 3, "purged": 3, "held": 3},
    "memories.insights": {"tenants": 3},
    "memories.capture": {"promoted": 12, "rejected": 3, "duplicates": 1},
    "memories.sync_due": {"dispatched": 1},
    "memories.siem_forward": {"endpoints": 1, "up_to_date": 1},
    "memories.audit_retain": {"deleted": 10, "held": 2},
    "memories.clean_sessions": {"deleted": 6},
    "memories.reevaluate": {"scored": 9, "became_hot": 6},
    "files.gc": {"swept": 4, "condemned": 4, "pardoned": 1, "young": 4},
    "graph.revision_counts": {"updated": 12},
    "graph.tag_cleanup": {"deleted": 3, "condemned": 1, "pardoned": 1},
    "graph.cache_cleanup": {"expired": 10},
    "graph.stale_jobs": {"expired": 5},
    "vectors.index_retry": {"indexed": 15},
    "vectors.reconcile": {"deleted": 1, "missing": 1, "queued": 1},
    "memories.sync": {"items": 3},
    "memories.siem_forward_tenant": {"rows": 0},
    "memories.embed": {"failed": 0},
    "files.reindex": {"indexed": 9, "unsupported": 3, "failed": 0},
    "vectors.delete": {"deleted": 5},
}


def seeded(database: Any, now: datetime) -> None:
    """Everything is as it was seeded."""
    for make in DOCUMENTS.values():
        for part in make(now):
            found = database[part.collection].find({"_id": {"$in": [each["_id"] for each in part.documents]}})
            assert {each["_id"]: each for each in found} == {each["_id"]: each for each in part.documents}


async def test_every_actor_has_something_to_do_and_none_fails(
    mongo_url: str, database: str, database_client: DatabaseClient, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"memory_database": database, "data_dir": tmp_path, "claude_projects": tmp_path / FOLDER}
    settings = Settings(mongodb_url=mongo_url, **where)
    memory = database_client.get_database(database, CodecOptions(tz_aware=True))
    async with sandbox(MODULES, mongodb_url=mongo_url, **where) as engine:
        now = to_instant(engine.clock.now())
        first = await seed(settings, now)
        seeded(memory, now)

        tasks = {}
        for task_type in (*SCHEDULED, *BODIES):
            made = await engine.client.enqueue(task_type, BODIES.get(task_type, {}))
            await engine.run_until_idle()
            tasks[task_type] = await engine.client.get(made.id)
        failed = await engine.failed()
        known = {handler.task_type for handler in engine.app.registry if not handler.internal}

        again = await seed(settings, now)
        seeded(memory, now)

    assert not failed
    assert set(tasks) == known
    discarded = tasks.pop("webhook.deliver")
    assert (discarded.status, discarded.reason) == (TaskStatus.CANCELLED, "the endpoint 'demo-webhook' is disabled")
    results = {name: task.result for name, task in tasks.items() if isinstance(task.result, dict)}
    assert {name: {key: results[name][key] for key in counts} for name, counts in COUNTED.items()} == COUNTED
    assert results.keys() == COUNTED.keys()
    assert first == again
    for make_files, _, _ in FILES.values():
        for file in make_files(now):
            path = tmp_path / file.path
            assert (path.read_bytes(), path.stat().st_mtime) == (file.content, file.changed.timestamp())


@pytest.fixture
def memory(instance: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A memory database of this test in the running instance."""
    monkeypatch.setenv("VERGER_MEMORY_DATABASE", "demo_of_a_test")
    running = read_instance(instance)
    assert running is not None
    with pymongo.MongoClient[dict[str, Any]](running.mongodb_url) as client:
        yield client.demo_of_a_test
        client.drop_database("demo_of_a_test")


def test_what_was_written_is_told_to_people_and_to_machines(memory: Any) -> None:
    for_people, for_machines = good("demo", "seed"), good("demo", "seed", "--json")

    head, *lines = for_people.out.splitlines()
    rows = [Written(**each) for each in for_machines.json["written"]]
    assert head.split() == ["FAMILY", "WHERE", "NUMBER", "WHAT"]
    assert ["graph", "cache", "20", "half", "of", "it", "expired"] in [line.split() for line in lines]
    assert {row.place: row.number for row in rows if row.family == "graph"} == {
        name: memory[name].count_documents({}) for name in ("graph_nodes", "node_revisions", "tags", "cache", "jobs")
    }
    assert all(row.number for row in rows)


def test_other_peoples_data_is_left_alone_unless_told_otherwise(memory: Any) -> None:
    memory.tags.insert_one({"_id": "theirs"})

    refused = verger("demo", "seed")

    assert (refused.code, refused.out) == (1, "")
    assert "the collection 'tags' of database 'demo_of_a_test' holds data" in refused.err
    assert memory.list_collection_names() == ["tags"]

    good("demo", "seed", "--force")

    assert memory.tags.count_documents({"_id": "theirs"}) == 1
    assert memory.memories.count_documents({"tenantId": "demo-herbarium"}) > 0


@pytest.fixture
def schedules(tmp_path: Path) -> Path:
    """A file with one schedule that is not due."""
    entry = {"id": "stale", "task_type": "graph.stale_jobs", "schedule": "@yearly"}
    (tmp_path / "schedules.json").write_text(json.dumps({"schedules": [entry]}))
    return tmp_path / "schedules.json"


def test_dev_seeds_before_anything_runs(schedules: Path, tmp_path: Path) -> None:
    where = {"VERGER_DATA_DIR": str(tmp_path / "data"), "VERGER_ACTORS": "actors.graph"}
    process = spawn("dev", "--demo", "--schedules", str(schedules), **where)
    try:
        assert process.stderr is not None
        finished = next((line for line in process.stderr if "task.finished" in line), None)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0
    assert finished is not None and "expired=5" in finished


async def test_dev_runs_new_schedules_at_its_start_and_with_the_demo_all_of_them(
    mongo_url: str, schedules: Path
) -> None:
    file = load_file(str(schedules))
    async with sandbox(["actors.graph"], mongodb_url=mongo_url) as engine:
        runs = []
        for every in (False, False, True):
            plan = await apply(engine.app, file, "test")
            await run_now(engine.app, plan, file, every=every)
            page = await engine.app.store.tasks.find(TaskFilter(task_type="graph.stale_jobs"), limit=10)
            runs.append(len(page.tasks))

    assert runs == [1, 1, 2]
