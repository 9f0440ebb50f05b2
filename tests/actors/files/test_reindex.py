"""``files.reindex``: every file under a path, once more, with real vectors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.files.reindex import under
from actors.maintenance.database import Database
from actors.maintenance.embedder.hashing import Hashing
from actors.maintenance.index_state import clear_stale, index_states, marked
from actors.maintenance.vector_store.lance import LanceStore
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.files.blobs import ago, blob, file, hash_of
from tests.actors.interleaving import After, cancelled_after
from tests.actors.observing import plans
from tests.conftest import DatabaseClient

JOB = "files.reindex"
TIMES = frozenset({"indexedAt", "startedAt", "heartbeatAt", "finishedAt", "taskId", "fence", "uploadDate"})


@asynccontextmanager
async def vectors(tmp_path: Path) -> AsyncIterator[LanceStore]:
    store = LanceStore(tmp_path / "vectors")
    try:
        yield store
    finally:
        await store.close()


async def owners(tmp_path: Path) -> list[str]:
    async with vectors(tmp_path) as store:
        return await store.owners("files")


async def found(tmp_path: Path, text: str) -> list[str]:
    """Paths of the nearest files."""
    [values] = await Hashing().embed([text])
    async with vectors(tmp_path) as store:
        return [hit.stored.owner for hit in await store.search("files", values, limit=3)]


async def index_of(memory: Database, path: str) -> dict[str, Any]:
    document = await memory.file_index.find_one({"_id": path})
    assert document is not None
    return document


async def some_files(memory: Database, count: int) -> None:
    for number in range(count):
        await file(memory, f"/data/{number:02}.txt", b"file number %d about owls" % number)


async def test_every_file_under_the_path_is_indexed_again(family: Family, memory: Database, tmp_path: Path) -> None:
    await file(memory, "/data/owls.txt", b"Owls hunt ", b"at night")
    await file(memory, "/data/page.html", b"<p>Badgers <script>never()</script> dig", kind="text/html; charset=utf-8")
    await file(memory, "/data/sub/notes.md", b"# Herons\n\nwade in water", kind=None)
    await file(memory, "/data/empty.txt", b"")
    await file(memory, "/data/photo.png", b"\x89PNG", kind="image/png")
    await blob(memory, b"otters swim " * 500, gridfs=True)
    await file(memory, "/data/large.txt", b"otters swim " * 500)
    await file(memory, "/data/torn.txt", b"gone")
    await memory.blobs.delete_one({"_id": hash_of(b"gone")})
    await file(memory, "/data", b"a file that is called like the folder")
    await file(memory, "/data2/x.txt", b"elsewhere")
    await file(memory, "/dat", b"elsewhere too")

    async with family.engine() as verger:
        task = await verger.client.enqueue("reindex", {"path": "/data/"})
        await verger.run_until_idle()
        ended = await verger.client.get(task.id)

    assert ended.status is TaskStatus.COMPLETED, ended.last_error
    result = ended.result
    assert (result["files"], result["indexed"], result["unsupported"], result["failed"]) == (7, 5, 1, 1)
    assert ended.progress is not None
    assert ended.progress.message == "indexed 7/7 files"
    assert (await index_of(memory, "/data/owls.txt"))["terms"] == ["at", "hunt", "night", "owls"]
    assert (await index_of(memory, "/data/page.html"))["terms"] == ["badgers", "dig"]
    assert (await index_of(memory, "/data/large.txt"))["characters"] == 6000
    stamps = {each["_id"]: each async for each in memory.files.find()}
    assert stamps["/data/owls.txt"]["indexError"] is None
    assert stamps["/data/photo.png"]["indexError"] == "unsupported content type image/png"
    assert "is missing" in stamps["/data/torn.txt"]["indexError"]
    assert {path for path, each in stamps.items() if each.get("indexedAt")} == {
        "/data/owls.txt",
        "/data/page.html",
        "/data/sub/notes.md",
        "/data/empty.txt",
        "/data/large.txt",
    }
    assert (await found(tmp_path, "an owl at night"))[0] == "/data/owls.txt"
    assert (await found(tmp_path, "water wading herons"))[0] == "/data/sub/notes.md"
    [state] = await index_states(memory, limit=10)
    assert (state.path, state.reindexing, state.progress, state.done, state.error) == ("/data/", False, 1.0, 7, None)

    assert (await family.run(JOB, {"path": "/data"}))["files"] == 8
    assert (await family.run(JOB, {"path": "/"}))["files"] == 10


async def test_once_more_changes_nothing_and_what_has_changed_is_replaced(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    await some_files(memory, 3)
    await file(memory, "/data/was-text", b"cormorants dive")
    body = {"path": "/data/", "batchSize": 2}
    await family.run(JOB, body)
    first, owned = await family.contents(without=TIMES), await owners(tmp_path)

    again = await family.run(JOB, body)
    assert (again["indexed"], again["unchanged"]) == (4, 0), "a reindex indexes"
    assert await family.contents(without=TIMES) == first
    assert await owners(tmp_path) == owned

    await file(memory, "/data/00.txt", b"nothing but magpies")
    await file(memory, "/data/was-text", b"\x89PNG", kind="image/png")
    skipped = await family.run(JOB, {**body, "skipUnchanged": True})
    assert (skipped["indexed"], skipped["unsupported"], skipped["unchanged"]) == (1, 1, 2)
    assert (await found(tmp_path, "magpies"))[0] == "/data/00.txt"
    assert await owners(tmp_path) == ["/data/00.txt", "/data/01.txt", "/data/02.txt"]
    assert await memory.file_index.count_documents({"_id": "/data/was-text"}) == 0


async def test_a_file_that_changes_or_goes_meanwhile_is_indexed_as_it_is_then(
    family: Family, memory: Database, tmp_path: Path, database_client: DatabaseClient
) -> None:
    await some_files(memory, 3)
    new = b"rewritten about magpies"
    await blob(memory, new)
    own = database_client[memory.name]

    def write() -> None:
        own.files.update_one({"_id": "/data/00.txt"}, {"$set": {"blobs": [hash_of(new)], "hash": hash_of(new)}})
        own.files.delete_one({"_id": "/data/01.txt"})

    with After(memory.name, "update", "file_index", write) as written:
        result = await family.run(JOB, {"path": "/data/"})

    assert written.happened
    assert (result["indexed"], result["gone"], result["failed"]) == (2, 1, 0)
    assert "magpies" in (await index_of(memory, "/data/00.txt"))["terms"]
    assert await owners(tmp_path) == ["/data/00.txt", "/data/02.txt"]
    assert await memory.file_index.count_documents({}) == 2


async def test_cut_short_it_comes_to_the_same_end(family: Family, memory: Database, tmp_path: Path) -> None:
    await some_files(memory, 12)
    body = {"path": "/data/", "batchSize": 3}

    # Each batch tells how far it is, writes terms and stamps: this is within the second.
    await family.die(JOB, body, after=8)
    part = await memory.files.count_documents({"indexedAt": {"$exists": True}})
    killed = await memory.index_state.find_one({"_id": "/data/"})
    assert 0 < part < 12
    assert killed is not None
    assert killed["reindexing"], "nobody was left to say otherwise"

    stopped = await cancelled_after(family, JOB, body, "update", "file_index", nth=2)
    assert stopped.status is TaskStatus.CANCELLED
    assert stopped.checkpoint["after"] == "/data/05.txt"
    [state] = await index_states(memory, limit=10)
    assert (state.reindexing, state.done, state.error) == (False, 6, "stopped")

    result = await family.run(JOB, body)
    assert result["indexed"] == 12
    assert await owners(tmp_path) == [f"/data/{number:02}.txt" for number in range(12)]
    assert await memory.file_index.count_documents({}) == 12


async def test_one_with_the_same_arguments_is_not_enqueued_again(family: Family) -> None:
    async with family.engine() as verger:
        tasks = [
            await verger.client.enqueue(name, {"path": path}, delay="1h")
            for name, path in ((JOB, "/data/"), ("reindex", "/data/"), (JOB, "/data2/"))
        ]

    assert tasks[0].id == tasks[1].id != tasks[2].id


async def test_while_it_runs_the_state_says_so(
    family: Family, memory: Database, database_client: DatabaseClient
) -> None:
    await some_files(memory, 4)
    seen: list[dict[str, Any]] = []
    states = database_client[memory.name].index_state

    def look() -> None:
        seen.extend(states.find({"_id": "/data/"}))

    with After(memory.name, "update", "files", look, nth=2):
        await family.run(JOB, {"path": "/data/", "batchSize": 2})

    [state] = seen
    assert (state["reindexing"], state["progress"], state["done"], state["total"]) == (True, 0.5, 2, 4)


async def test_a_run_that_was_killed_does_not_reindex_for_ever(memory: Database) -> None:
    alive = {"reindexing": True, "progress": 0.5, "taskId": "t", "fence": 1}
    await memory.index_state.insert_one({"_id": "/dead/", "heartbeatAt": ago(timedelta(minutes=2)), **alive})
    await memory.index_state.insert_one({"_id": "/live/", "heartbeatAt": ago(timedelta(seconds=5)), **alive})

    assert {state.path: state.reindexing for state in await index_states(memory, limit=9)} == {
        "/dead/": False,
        "/live/": True,
    }
    await clear_stale(memory.index_state)
    dead = await memory.index_state.find_one({"_id": "/dead/"})
    assert dead is not None
    assert (dead["reindexing"], dead["error"]) == (False, "interrupted")
    assert await memory.index_state.count_documents({"reindexing": True}) == 1


async def test_of_two_runs_on_a_path_the_last_to_begin_has_the_marker_and_the_other_takes_it_over(
    memory: Database,
) -> None:
    async def holder() -> tuple[bool, str | None]:
        [state] = await index_states(memory, limit=2)
        return state.reindexing, state.task_id

    async with marked(memory.index_state, "/data/", task_id="first", fence=1) as first:
        async with marked(memory.index_state, "/data/", task_id="second", fence=1):
            await first.tell(1, 2)
            assert await holder() == (True, "second")
        assert await holder() == (False, "second")
        await first.tell(2, 2)
        assert await holder() == (True, "first")
    assert await holder() == (False, "first")


# ---- embedders that fail ---------------------------------------------------------------------------------------------


class Ollama:
    """Speaks its API; ``answers`` says what comes of a text: a vector, or a status."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.odd: set[str] = set()
        """Texts with a word of these get a vector of another length."""
        self.refused: set[str] = set()

    async def embed(self, request: web.Request) -> web.Response:
        self.asked += 1
        texts = (await request.json())["input"]
        if self.down:
            return web.Response(status=503)
        if any(word in text for text in texts for word in self.refused):
            return web.Response(status=400, text="it is too long")
        vectors = [[1.0, 2.0] if any(word in text for word in self.odd) else [1.0, 2.0, 3.0] for text in texts]
        return web.json_response({"embeddings": vectors})


@pytest.fixture
async def ollama(family: Family) -> AsyncIterator[Ollama]:
    served = Ollama()
    app = web.Application()
    app.router.add_post("/api/embed", served.embed)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    family.settings.update(embedder="ollama", ollama_url=f"http://127.0.0.1:{port}")
    yield served
    await runner.cleanup()


async def test_an_embedder_that_is_down_opens_the_circuit_and_the_next_attempt_goes_on(
    family: Family, memory: Database, tmp_path: Path, database_client: DatabaseClient, ollama: Ollama
) -> None:
    await some_files(memory, 6)
    body = {"path": "/data/", "batchSize": 2, "maxFailuresInRow": 3, "pause": "10ms"}

    def go_down() -> None:
        ollama.down = True

    with After(memory.name, "update", "files", go_down, nth=2):
        async with family.engine() as verger:
            task = await verger.client.enqueue(JOB, body)
            await verger.run_until_idle()
            failed = await verger.client.get(task.id)
            asked, ollama.down = ollama.asked, False
            await verger.advance(minutes=1)
            await verger.run_until_idle()
            ended = await verger.client.get(task.id)

    assert (failed.status, failed.checkpoint["after"], asked) == (TaskStatus.PENDING, "/data/03.txt", 2 + 3)
    assert failed.last_error is not None
    assert "3 files in a row failed" in failed.last_error.message
    assert (ended.status, ended.attempt, ended.result["indexed"]) == (TaskStatus.COMPLETED, 2, 6)
    assert ollama.asked == asked + 1, "only what was left is embedded"
    assert await memory.files.count_documents({"indexError": {"$ne": None}}) == 0, "no file is to blame"


async def test_an_embedder_that_is_down_for_a_moment_is_asked_again(
    family: Family, memory: Database, database_client: DatabaseClient, ollama: Ollama
) -> None:
    await some_files(memory, 2)
    ollama.down = True

    async def come_back() -> None:
        while ollama.asked < 2:
            await asyncio.sleep(0.01)
        ollama.down = False

    coming = asyncio.create_task(come_back())
    result = await family.run(JOB, {"path": "/data/", "pause": "10ms", "maxFailuresInRow": 1000})
    await coming

    assert (result["indexed"], result["failed"]) == (2, 0)


async def test_a_file_that_the_embedder_refuses_does_not_hold_up_the_others(
    family: Family, memory: Database, ollama: Ollama
) -> None:
    await some_files(memory, 5)
    ollama.refused, ollama.odd = {"number 1"}, {"number 3"}

    result = await family.run(JOB, {"path": "/data/"})

    assert (result["indexed"], result["failed"]) == (3, 2)
    errors = {each["_id"]: each.get("indexError") async for each in memory.files.find()}
    assert "it is too long" in str(errors["/data/01.txt"])
    assert "of 2 numbers, where others have 3" in str(errors["/data/03.txt"])


async def test_many_bad_files_in_a_row_open_the_circuit(family: Family, memory: Database) -> None:
    await some_files(memory, 8)
    await memory.blobs.delete_many({"_id": {"$ne": hash_of(b"file number 0 about owls")}})

    async with family.engine() as verger:
        task = await verger.client.enqueue(
            JOB, {"path": "/data/", "batchSize": 2, "maxFailuresInRow": 5}, max_attempts=1
        )
        await verger.run_until_idle()
        failed = await verger.client.get(task.id)

    assert failed.status is TaskStatus.FAILED
    assert failed.last_error is not None
    assert "5 files in a row failed, at last: blob" in failed.last_error.message
    assert failed.checkpoint["after"] == "/data/01.txt", "those that failed last are tried again"


# ---- paths -----------------------------------------------------------------------------------------------------------


async def test_paths_are_ranges_of_an_index(family: Family, memory: Database) -> None:
    assert (await family.run(JOB, {"path": "/nothing/"}))["files"] == 0

    names = ["/data", "/data-x", "/data/", "/data/a", "/data/a/b", "/data/é", "/data0", "/data2/a", "/dat", "data/a"]
    await memory.files.insert_many([{"_id": name} for name in names])

    async def below(path: str) -> list[Any]:
        return [each["_id"] for query in under(path) async for each in memory.files.find(query, sort=[("_id", 1)])]

    assert await below("/data/") == ["/data/a", "/data/a/b", "/data/é"]
    assert await below("/data") == ["/data", "/data/a", "/data/a/b", "/data/é"]
    assert await below("/data/a") == ["/data/a", "/data/a/b"]
    assert len(await below("/")) == 9
    [query] = under("/data/")
    plan = await memory.files.find({"$and": [query, {"_id": {"$gt": "/data/a"}}]}, sort=[("_id", 1)]).explain()
    assert plan["executionStats"]["totalKeysExamined"] == 2

    await some_files(memory, 3)
    seen = await plans(family, JOB, {"path": "/data", "batchSize": 2, "skipUnchanged": True})
    assert [each for each in seen if "COLLSCAN" in each[1]] == []
