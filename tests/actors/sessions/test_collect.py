"""sessions.collect: what becomes of session files."""

import asyncio
import json
import os
import shutil
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from actors.maintenance import blocking
from actors.maintenance.breaker import CircuitOpen
from actors.maintenance.database import Database, memory as memory_resource
from actors.sessions import collect, collect_sessions, collected
from actors.sessions.adapters import ADAPTERS
from actors.sessions.adapters.claude_code import ClaudeCode
from actors.sessions.adapters.port import Limits, Portion, Position
from actors.sessions.collect import CollectParams
from actors.sessions.collected import Collected, FileState
from actors.sessions.indexes import Collections, ensure_indexes
from service.registry import load
from tests.actors.sessions.double import Double, capture_logs, settings_for
from tests.actors.sessions.files import CWD, FOLDER, append, line, text, write

EXAMPLES = Path(__file__).parents[3] / "examples" / "sessions"
Counts = dict[str, int]
Run = Callable[..., Awaitable[Counts]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "projects"
    folder.mkdir()
    return folder


@pytest.fixture
def run(context: Double, root: Path) -> Run:
    async def run(**params: Any) -> Counts:
        result = await collect_sessions(CollectParams(roots=(root,), **params), context.as_context())
        return {name: count for name, count in result.items() if count}

    return run


async def contents(memory: Database) -> dict[str, list[Any]]:
    return {
        name: await memory[name].find({}, sort=[("_id", 1)]).to_list(None)
        for name in ("projects", "sessions", "messages")
    }


# -- what is collected -------------------------------------------------------------------------------------------------


async def test_messages_sessions_and_their_project_are_made(run: Run, root: Path, memory: Database) -> None:
    blocks = [
        {"type": "text", "text": "Ça va ? 日本"},
        {"type": "tool_use", "input": {"$ref": 1, "a.b": None, "": 2**62}},
    ]
    answer = line(5, type="assistant", message={"role": "assistant", "content": blocks})
    write(root, {"type": "summary", "summary": "Tides"}, line(0, uuid="first"), answer)

    counts = await run()

    assert {name: count for name, count in counts.items() if name != "bytes_read"} == {
        "files": 1, "sessions": 1, "inserted": 2, "ignored": 1,
    }  # fmt: skip
    [project] = await memory.projects.find().to_list(None)
    assert (project["name"], project["path"]) == ("lantern", CWD)
    [session] = await memory.sessions.find().to_list(None)
    assert session == {
        "_id": "5e55-1",
        "projectId": project["_id"],
        "source": "claude_code",
        "startedAt": datetime(2026, 2, 16, 8, 0, 0, 250_000, UTC),
        "latestAt": datetime(2026, 2, 16, 8, 0, 5, 250_000, UTC),
        "messageCount": 2,
    }
    assert await memory.messages.find_one({"_id": "first"}) == {
        "_id": "first",
        "sessionId": "5e55-1",
        "projectId": project["_id"],
        "role": "user",
        "content": "message 0",
        "at": session["startedAt"],
        "indexedAt": None,
        "indexAttempts": 0,
        "indexError": None,
    }
    stored = await memory.messages.find_one({"_id": answer["uuid"]})
    assert stored is not None
    assert stored["content"] == blocks


async def test_a_project_that_exists_is_found_by_its_path(run: Run, root: Path, memory: Database) -> None:
    await memory.projects.insert_one({"_id": "mine", "name": "Lantern", "path": CWD})
    write(root, line())

    await run()

    assert [project["_id"] async for project in memory.projects.find()] == ["mine"]
    assert (await memory.sessions.find_one({}) or {})["projectId"] == "mine"


@pytest.mark.parametrize(
    ("folder", "cwds", "path", "name"),
    [
        (FOLDER, [CWD + "/src", CWD], CWD, "lantern"),
        (FOLDER, ["/elsewhere/x"], "/elsewhere/x", "x"),
        (FOLDER, [...], "/home/ada/lantern", "lantern"),
        ("C--Users-Ada-lantern", [...], "C:/Users/Ada/lantern", "lantern"),
        ("-home-ada-toys-crossword-v2", ["/home/ada/toys/crossword.v2"], "/home/ada/toys/crossword.v2", "crossword.v2"),
        ("-", ["/"], "/", "/"),
    ],
)
async def test_the_project_comes_from_the_working_folder_else_from_the_folder_name(
    run: Run, root: Path, memory: Database, folder: str, cwds: list[Any], path: str, name: str
) -> None:
    write(root, *(line(cwd=cwd) for cwd in cwds), folder=folder)

    await run()

    assert [(each["path"], each["name"]) async for each in memory.projects.find()] == [(path, name)]


async def test_a_session_in_two_files_spans_both_and_counts_each_message_once(
    run: Run, root: Path, memory: Database
) -> None:
    shared = line(3)
    write(root, line(1), shared, name="a.jsonl")
    write(root, shared, line(9), name="b.jsonl")

    counts = await run()

    assert (counts["inserted"], counts["duplicates"]) == (3, 1)
    [session] = await memory.sessions.find().to_list(None)
    assert (session["startedAt"].second, session["latestAt"].second, session["messageCount"]) == (1, 9, 3)


async def test_without_a_session_id_the_file_names_the_session(run: Run, root: Path, memory: Database) -> None:
    write(root, line(sessionId=...), name="the-file.jsonl")

    await run()

    assert [session["_id"] async for session in memory.sessions.find()] == ["the-file"]


async def test_the_examples_are_collected(memory: Database, context: Double) -> None:
    counts = await collect_sessions(CollectParams(roots=(EXAMPLES,)), context.as_context())

    assert (counts["files"], counts["sessions"], counts["inserted"], counts["malformed"]) == (5, 5, 83, 4)
    names = [project["name"] async for project in memory.projects.find({}, sort=[("name", 1)])]
    assert names == ["crossword.v2", "herbarium-api", "lantern"]


async def test_own_names_of_collections_are_used(run: Run, root: Path, memory: Database) -> None:
    write(root, line())

    await run(collections=Collections(projects="p", sessions="s", messages="m", files="f"))

    assert sorted(await memory.list_collection_names()) == ["f", "m", "p", "s"]


# -- what a second run costs -------------------------------------------------------------------------------------------


async def test_a_second_run_right_after_finds_nothing_to_do(run: Run, root: Path, memory: Database) -> None:
    for number in range(5):
        write(root, line(1), line(2), b'{"half', name=f"{number}.jsonl")
    await run()
    before = await contents(memory)

    again = await run()

    assert again == {"files": 5, "unchanged": 5}
    assert await contents(memory) == before


async def test_an_unchanged_file_costs_one_stat_and_no_write(
    run: Run, root: Path, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, line())
    await run()
    states = await memory.collector_files.find().to_list(None)
    monkeypatch.setattr(collect, "open_below", lambda *_: pytest.fail("an unchanged file was opened"))
    monkeypatch.setattr(Collected, "ensure_indexes", lambda _: pytest.fail("an idle run asks for indexes"))
    before = (await memory.command("serverStatus"))["opcounters"]

    assert await run() == {"files": 1, "unchanged": 1}

    after = (await memory.command("serverStatus"))["opcounters"]
    assert [after[kind] - before[kind] for kind in ("insert", "update", "delete")] == [0, 0, 0]
    assert await memory.collector_files.find().to_list(None) == states


async def test_a_grown_file_is_read_from_where_it_was_left(run: Run, root: Path, memory: Database) -> None:
    path = write(root, *(line(number) for number in range(50)))
    await run()
    more = line(51)
    append(path, more)

    counts = await run()

    assert counts == {
        "files": 1, "grown": 1, "sessions": 1, "inserted": 1, "bytes_read": len(text(more)),
    }  # fmt: skip
    assert (await memory.sessions.find_one({}) or {})["messageCount"] == 51


async def test_a_half_written_last_line_waits_for_its_end(run: Run, root: Path, memory: Database) -> None:
    whole = text(line(2, uuid="late"))
    path = write(root, line(1), whole[:40])
    assert (await run())["inserted"] == 1

    append(path, whole[40:60])
    assert "inserted" not in await run()
    append(path, whole[60:], line(3))
    counts = await run()

    assert (counts["inserted"], counts.get("malformed", 0)) == (2, 0)
    assert await memory.messages.count_documents({"_id": "late"}) == 1


async def test_a_whole_last_line_does_not_wait_for_a_line_end_that_may_never_come(run: Run, root: Path) -> None:
    path = write(root, line(1), text(line(2))[:-1])
    assert (await run())["inserted"] == 2

    append(path, b"\n", line(3), b"rubbish\n")
    with capture_logs() as logs:
        counts = await run()

    assert (counts["inserted"], counts["malformed"]) == (1, 1)
    assert [log["line"] for log in logs if log["event"] == "line.skipped"] == [4]


@pytest.mark.parametrize(
    "how", ["truncated", "replaced", "rewritten in place, longer", "rewritten in place, same size"]
)
async def test_a_file_that_is_another_one_now_is_read_afresh(run: Run, root: Path, memory: Database, how: str) -> None:
    path = write(root, line(1), line(2), line(3))
    await run()
    size = path.stat().st_size

    if how == "truncated":
        write(root, line(4, uuid="new"))
    elif how == "replaced":
        other = path.with_suffix(".tmp")
        other.write_bytes(text(*(line(number, uuid=f"new{number or ''}") for number in range(20))))
        other.replace(path)
    else:
        lines = [line(4, uuid="new"), line(5), line(6)]
        extra = 1000 if how.endswith("longer") else size - len(text(*lines))
        lines[2]["message"]["content"] += "x" * extra
        path.write_bytes(text(*lines))
    os.utime(path)
    counts = await run()

    assert counts["reread"] == 1
    assert await memory.messages.count_documents({"_id": "new"}) == 1


async def test_lines_of_a_rotated_file_that_are_known_are_duplicates(run: Run, root: Path) -> None:
    path = write(root, line(1), line(2))
    await run()
    copy = path.with_suffix(".tmp")
    shutil.copy(path, copy)
    copy.replace(path)

    counts = await run()

    assert (counts["reread"], counts["duplicates"], counts.get("inserted", 0)) == (1, 2, 0)


async def test_a_large_file_is_read_over_several_runs(run: Run, root: Path, memory: Database) -> None:
    filler = "x" * 10_000
    write(root, *(line(number, message={"role": "user", "content": filler}) for number in range(250)))

    runs = [await run(max_file_bytes=1024 * 1024, batch_bytes=64 * 1024) for _ in range(4)]

    assert [counts.get("unchanged", 0) for counts in runs] == [0, 0, 0, 1]
    assert sum(counts.get("inserted", 0) for counts in runs) == 250
    assert (await memory.sessions.find_one({}) or {})["messageCount"] == 250


# -- what is wrong with files ------------------------------------------------------------------------------------------


BAD: list[tuple[Any, str]] = [
    (b"not json\n", "is not JSON"),
    (b'{"type": "user",\n', "is not JSON"),
    (b"[1, 2]\n", "is not a JSON object"),
    (b"\xff\xfe\x00\n", "is not UTF-8"),
    (b"\x00" * 300 + b"\n", "is not JSON"),
    (b'{"a":' * 100_000 + b"\n", "nests too deeply"),
    (b'{"type":"user","n":' + b"9" * 5000 + b"}\n", "is not JSON"),
    (line(type=...), "has no type"),
    (line(type=7), "type is not text"),
    (line(uuid=...), "has no uuid"),
    (line(uuid=12), "uuid is not text"),
    (line(uuid=""), "uuid is empty"),
    (line(uuid="u" * 1000), "uuid is longer"),
    (line(uuid="\ud800"), "lone surrogate"),
    (line(sessionId=["s"]), "sessionId is not text"),
    (line(cwd={"a": 1}), "cwd is not text"),
    (line(timestamp=...), "has no timestamp"),
    (line(timestamp=1771230000), "timestamp is not text"),
    (line(timestamp="yesterday"), "is not ISO 8601"),
    (line(timestamp="0001-01-01T00:00:00+14:00"), "is not ISO 8601"),
    (line(message=...), "has no message"),
    (line(message="text"), "message is not an object"),
    (line(message={"role": 5, "content": "x"}), "role is not text"),
    (line(message={"role": "user"}), "has no content"),
    (line(message={"role": "user", "content": 5}), "content is neither"),
    (line(message={"role": "user", "content": ["x"]}), "a block that is not an object"),
    (line(message={"role": "user", "content": "\ud83d"}), "lone surrogate"),
    (line(message={"role": "user", "content": [{"n": 2**63}]}), "does not fit 64 bits"),
    (line(message={"role": "user", "content": [{"n": float("nan")}]}), "is not a JSON number"),
    (line(message={"role": "user", "content": [{"a\0b": 1}]}), "NUL"),
    (line(message={"role": "user", "content": [json.loads('{"a":' * 90 + "1" + "}" * 90)]}), "nests deeper"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_line_is_told_by_its_number_and_its_reason(root: Path, bad: object, reason: str) -> None:
    path = write(root, line(1), bad, line(2))
    now = datetime.now(UTC)
    [found] = ClaudeCode().find(root, lambda path, error: pytest.fail(f"{path}: {error}"))

    with path.open("rb") as file:
        portion = ClaudeCode().parse(file, found, Position(), Limits(100, 10**9, 10**7, now, now))

    assert len(portion.messages) == 2
    [problem] = portion.malformed
    assert problem.line == 2
    assert reason in problem.reason


async def test_bad_lines_are_counted_logged_and_skipped(run: Run, root: Path, memory: Database) -> None:
    path = write(root, line(1), *(bad for bad, _ in BAD), line(2))

    with capture_logs() as logs:
        counts = await run(max_logged=100)

    assert (counts["inserted"], counts["malformed"]) == (2, len(BAD))
    skipped = [log for log in logs if log["event"] == "line.skipped"]
    assert [(log["path"], log["line"]) for log in skipped] == [
        (str(path.resolve()), number) for number in range(2, 2 + len(BAD))
    ]
    assert await memory.messages.count_documents({}) == 2


async def test_a_message_that_grows_beyond_a_document_is_malformed(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two bytes a number in JSON, a dozen in BSON: 8 MiB of a line can take more than a document's 16.
    monkeypatch.setattr(collected, "LARGEST_DOCUMENT", 1024 * 1024)
    write(root, line(message={"role": "user", "content": [{"n": [1] * 100_000}]}), line(2))

    counts = await run()

    assert (counts["inserted"], counts["malformed"]) == (1, 1)


async def test_a_message_that_the_server_refuses_is_malformed(run: Run, root: Path, memory: Database) -> None:
    await memory.create_collection("messages", validator={"role": {"$ne": "intruder"}})
    write(root, line(1), line(2, message={"role": "intruder", "content": ""}), line(3))

    with capture_logs() as logs:
        counts = await run()

    assert (counts["inserted"], counts["malformed"]) == (2, 1)
    assert [log["line"] for log in logs if log["event"] == "line.skipped"] == [2]


async def test_a_flood_of_bad_lines_is_counted_and_logged_in_brief(run: Run, root: Path) -> None:
    write(root, *([b"rubbish\n"] * 2000), line())

    with capture_logs() as logs:
        counts = await run(max_logged=3)

    assert (counts["malformed"], counts["inserted"]) == (2000, 1)
    assert [log["event"] for log in logs] == ["line.skipped"] * 3 + ["lines.skipped"]


@pytest.mark.parametrize("timestamp", ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"])
async def test_a_timestamp_in_the_future_is_cut_down_to_now(
    run: Run, root: Path, memory: Database, context: Double, timestamp: str
) -> None:
    context.time = datetime(2026, 3, 1, 12, tzinfo=UTC)
    write(root, line(1, timestamp=timestamp), line(2, timestamp="2026-03-01T12:10:00Z"))

    counts = await run()

    assert (counts["inserted"], counts["clamped"]) == (2, 1)
    assert (await memory.sessions.find_one({}) or {})["latestAt"] == context.time + timedelta(minutes=10)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_line_of_100_mb_neither_stops_the_job_nor_is_held(run: Run, root: Path, ended: bool) -> None:
    path = write(root, line(1))
    with path.open("ab") as file:
        for _ in range(100 if ended else 10):
            file.write(b"x" * 1024 * 1024)
        file.write(b"\n" if ended else b"")
    if ended:
        append(path, line(2))
    tracemalloc.start()

    counts = await run(max_line_bytes=1024 * 1024)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 1024 * 1024
    assert counts["inserted"] == (2 if ended else 1)
    assert counts.get("malformed", 0) == (1 if ended else 0)
    if not ended:
        # What was skipped is not read again when it goes on, and ends at last.
        append(path, b"yyy\n", line(3))
        counts = await run(max_line_bytes=1024 * 1024)
        assert (counts["inserted"], counts["malformed"]) == (1, 1)
        assert counts["bytes_read"] < 1000


async def test_memory_stays_flat_as_a_file_grows(run: Run, root: Path) -> None:
    peaks = []
    for number, megabytes in enumerate((2, 10)):
        lines = (line(each, message={"role": "user", "content": "x" * 8000}) for each in range(megabytes * 120))
        write(root, *lines, name=f"{number}.jsonl")
        tracemalloc.start()
        await run(batch_bytes=512 * 1024)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < peaks[0] * 1.5


async def test_a_corrupt_file_does_not_keep_others_from_being_read(run: Run, root: Path) -> None:
    write(root, os.urandom(300_000), name="a.jsonl")
    write(root, bytes(300_000), name="b.jsonl")
    write(root, b"", name="c.jsonl")
    write(root, line(), name="d.jsonl")

    counts = await run()

    assert (counts["files"], counts["inserted"]) == (4, 1)
    assert await run() == {"files": 4, "unchanged": 4}


async def test_a_file_that_cannot_be_read_is_counted_and_passed_over(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, line(1), name="a.jsonl")
    write(root, line(2), name="b.jsonl")
    whole = blocking.open_below

    def denied(folder: Path, parts: tuple[str, ...]) -> Any:
        if parts[-1] == "a.jsonl":
            raise PermissionError(13, "Permission denied")
        return whole(folder, parts)

    monkeypatch.setattr(collect, "open_below", denied)
    with capture_logs() as logs:
        counts = await run()

    assert (counts["failed_files"], counts["inserted"]) == (1, 1)
    assert [log["event"] for log in logs] == ["file.failed"]


async def test_many_io_errors_in_a_row_trip_the_circuit_breaker(
    run: Run, root: Path, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        write(root, line(number), name=f"{number}.jsonl")
    whole = blocking.open_below

    def dying(folder: Path, parts: tuple[str, ...]) -> Any:
        if parts[-1] > "1":
            raise OSError(5, "Input/output error")
        return whole(folder, parts)

    monkeypatch.setattr(collect, "open_below", dying)
    with pytest.raises(CircuitOpen, match="4 files in a row .* Input/output error"):
        await run(max_failures_in_row=4)

    assert await memory.messages.count_documents({}) == 1
    monkeypatch.undo()
    assert (await run())["inserted"] == 9


async def test_symlinks_lead_nowhere(run: Run, root: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", line(1))
    write(root, line(2), name="real.jsonl")
    (root / FOLDER / "linked.jsonl").symlink_to(outside)
    (root / "linked-folder").symlink_to(outside.parent, target_is_directory=True)
    (root / FOLDER / "inside.jsonl").symlink_to(root / FOLDER / "real.jsonl")
    os.mkfifo(root / FOLDER / "fifo.jsonl")

    counts = await run()

    assert (counts["files"], counts["inserted"]) == (1, 1)


@pytest.mark.parametrize("what", ["the file", "its folder"])
async def test_a_file_that_becomes_a_symlink_after_it_was_found_is_not_followed(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    outside = write(tmp_path / "outside", line(1))
    path = write(root, line(2))
    states = Collected.states

    async def swapped(self: Collected, paths: list[str]) -> dict[str, FileState]:
        if what == "the file":
            path.unlink()
            path.symlink_to(outside)
        else:
            shutil.rmtree(path.parent)
            path.parent.symlink_to(outside.parent)
        return await states(self, paths)

    monkeypatch.setattr(Collected, "states", swapped)
    counts = await run()

    assert counts == {"files": 1, "failed_files": 1}


async def test_a_file_that_is_removed_after_it_was_found_is_no_failure(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(root, line(1), name="a.jsonl")
    write(root, line(2), name="b.jsonl")
    states = Collected.states

    async def removing(self: Collected, paths: list[str]) -> dict[str, FileState]:
        path.unlink()
        return await states(self, paths)

    monkeypatch.setattr(Collected, "states", removing)
    counts = await run()

    assert (counts["inserted"], counts.get("failed_files", 0)) == (1, 0)


async def test_the_root_itself_may_be_a_symlink(context: Double, root: Path, tmp_path: Path) -> None:
    write(root, line())
    (tmp_path / "link").symlink_to(root)

    counts = await collect_sessions(CollectParams(roots=(tmp_path / "link", root)), context.as_context())

    assert (counts["files"], counts["inserted"]) == (1, 1)


async def test_hostile_names_of_files_are_stored(run: Run, root: Path) -> None:
    folder = os.fsencode(root / FOLDER)
    write(root, line())
    for name in (b"\xff\xfe.jsonl", b"a\nb.jsonl", "ü$.é.jsonl".encode()):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(text(line()))

    assert (await run())["inserted"] == 4
    assert await run() == {"files": 4, "unchanged": 4}


# -- where from --------------------------------------------------------------------------------------------------------


async def test_without_a_root_there_is_nothing_to_do_and_the_fix_is_logged(context: Double) -> None:
    with capture_logs() as logs:
        counts = await collect_sessions(CollectParams(), context.as_context())

    assert {name: count for name, count in counts.items() if count} == {"missing_roots": 1}
    assert "VERGER_CLAUDE_PROJECTS" in logs[0]["fix"]


async def test_the_root_of_the_settings_is_the_default(memory: Database, root: Path, tmp_path: Path) -> None:
    write(root, line())
    double = Double(memory, settings_for(tmp_path / "data", claude_projects=root))

    assert (await collect_sessions(CollectParams(), double.as_context()))["inserted"] == 1


async def test_a_root_that_is_missing_does_not_keep_others_from_being_read(context: Double, root: Path) -> None:
    write(root, line())

    counts = await collect_sessions(CollectParams(roots=(root / "none", root)), context.as_context())

    assert (counts["missing_roots"], counts["inserted"]) == (1, 1)


# -- interruptions -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_is_taken_up_where_it_stopped(
    run: Run, root: Path, memory: Database, context: Double
) -> None:
    write(root, *(line(number) for number in range(1000)))
    context.stop_after = 3

    with pytest.raises(asyncio.CancelledError):
        await run(batch_size=100)
    stored = await memory.messages.count_documents({})
    context.stop_after = None
    counts = await run(batch_size=100)

    assert 0 < stored < 1000
    assert (counts["inserted"], counts.get("duplicates", 0)) == (1000 - stored, 0)
    assert (await memory.sessions.find_one({}) or {})["messageCount"] == 1000


async def test_a_crash_between_two_writes_loses_and_doubles_nothing(
    run: Run, root: Path, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(number, uuid=f"{number:03}", sessionId=f"s{number % 3}") for number in range(300)]
    write(root, *lines)

    for method in ("project_id", "insert", "note_sessions", "count_sessions", "save_state"):
        whole = getattr(Collected, method)
        calls = 0

        async def crashing(self: Collected, *args: Any, whole: Any = whole, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise PyMongoError("the server is gone")
            return await whole(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Collected, method, crashing)
            if method in ("project_id", "count_sessions", "save_state"):
                calls = 1
            with pytest.raises(PyMongoError):
                await run(batch_size=20)
    await run(batch_size=20)

    assert [message["_id"] async for message in memory.messages.find({}, sort=[("_id", 1)])] == [
        each["uuid"] for each in lines
    ]
    assert [session["messageCount"] async for session in memory.sessions.find()] == [100, 100, 100]
    assert await memory.projects.count_documents({}) == 1


async def test_two_at_once_are_as_good_as_one(memory: Database, context: Double, root: Path, tmp_path: Path) -> None:
    for number in range(6):
        write(root, *(line(each, sessionId=f"s{number % 2}") for each in range(60)), name=f"{number}.jsonl")
    params = CollectParams(roots=(root,), batch_size=30)
    doubles = [Double(memory, context.settings) for _ in range(4)]

    results = await asyncio.gather(*(collect_sessions(params, double.as_context()) for double in doubles))

    assert sum(counts["inserted"] for counts in results) == 360
    assert [session["messageCount"] async for session in memory.sessions.find()] == [180, 180]
    assert await memory.projects.count_documents({}) == 1
    again = await collect_sessions(params, context.as_context())
    assert again["inserted"] == 0


async def test_the_loop_goes_on_while_files_are_parsed(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, *(line(number) for number in range(100)))
    threads = []

    class Watched(ClaudeCode):
        def parse(self, *args: Any) -> Portion:
            threads.append(threading.current_thread())
            return super().parse(*args)

    monkeypatch.setitem(ADAPTERS, "claude_code", Watched())

    await run()

    assert threads
    assert threading.main_thread() not in threads


# -- queries -----------------------------------------------------------------------------------------------------------


def stages(plan: Any) -> list[str]:
    if isinstance(plan, dict):
        own = [plan["stage"]] if isinstance(plan.get("stage"), str) else []
        return own + [stage for value in plan.values() for stage in stages(value)]
    return [stage for value in plan for stage in stages(value)] if isinstance(plan, list) else []


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    names = Collections()
    await ensure_indexes(memory, names)
    await ensure_indexes(memory, names)
    await memory.messages.insert_many(
        {"_id": n, "sessionId": f"s{n % 50}", "at": n, "content": "x"} for n in range(500)
    )
    await memory.projects.insert_many({"_id": n, "path": f"/p/{n}"} for n in range(500))
    await memory.collector_files.insert_many({"_id": f"/f/{n}"} for n in range(500))
    counting = [{"$match": {"sessionId": {"$in": ["s1"]}}}, {"$group": {"_id": "$sessionId", "count": {"$sum": 1}}}]
    commands: list[dict[str, Any]] = [
        {"find": "projects", "filter": {"path": "/p/7"}, "projection": {"_id": 1}},
        {"find": "collector_files", "filter": {"_id": {"$in": ["/f/1", "/f/2"]}}},
        {"aggregate": "messages", "pipeline": counting, "cursor": {}},
        {"update": "sessions", "updates": [{"q": {"_id": "s1"}, "u": {"$set": {"a": 1}}, "upsert": True}]},
    ]

    for command in commands:
        explained = await memory.command("explain", command, verbosity="executionStats")
        found = stages(explained)
        assert "COLLSCAN" not in found, command
        assert {"IXSCAN", "IDHACK", "EOF"} & set(found), found
    counted = await memory.command("explain", commands[2], verbosity="executionStats")
    stats = counted["stages"][0]["$cursor"]["executionStats"] if "stages" in counted else counted["executionStats"]
    assert (stats["totalKeysExamined"], stats["totalDocsExamined"]) == (10, 0)


def test_the_family_is_loaded_by_its_name() -> None:
    registry = load(["actors.sessions"])

    assert registry.get("collect_all").task_type == "sessions.collect"
    assert registry.resources["memory"] is memory_resource


def test_an_unknown_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="claude_code"):
        CollectParams(adapter="gpt")
