"""The port of vector stores, on LanceDB; and what only this adapter has to bear."""

import asyncio
import builtins
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from actors.maintenance.vector_store import vector_store
from actors.maintenance.vector_store.lance import LanceStore
from actors.maintenance.vector_store.port import Vector, VectorStore, VectorStoreRefused, VectorStoreUnavailable
from actors.maintenance.vector_store.rows import among
from actors.maintenance.vector_store.turns import Turns
from service.settings import Settings

ROOT = Path(__file__).parents[3]
NASTY = [
    "it's",
    "' OR '1'='1",
    "\\' OR 1=1 --",
    "back\\",
    '"',
    "`id`",
    "%_",
    "a\nb\x00c",
    "{}$1?",
    "né 字 😀",
    "x'); DELETE",
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[VectorStore]:
    async for each in vector_store.open(Settings(vectors_dir=tmp_path / "vectors")):
        yield each


def vector(owner: str, number: int = 0, *, group: str = "g", model: str = "m", at: float = 0.0) -> Vector:
    return Vector(f"{owner}:{number}", owner, group, model, "hash", f"{owner} says {number}", [1.0, at, 0.5])


async def all_ids(store: VectorStore, table: str = "t") -> list[str]:
    return sorted(each.id for each in await store.of_owners(table, await store.owners(table)))


# ---- the port --------------------------------------------------------------------------------------------------------


async def test_a_table_that_does_not_exist_is_as_good_as_an_empty_one(store: VectorStore) -> None:
    assert await store.tables() == []
    assert await store.count("t") == 0
    assert await store.owners("t") == []
    assert await store.of_owners("t", ["a"]) == []
    assert await store.search("t", [1.0, 0.0, 0.0]) == []
    assert await store.delete("t", groups=["g"]) == 0
    assert (await store.compact("t", older_than=timedelta(days=7))).bytes_before == 0
    await store.put("t", [])
    await store.replace_owners("t", ["a"], [])
    assert await store.tables() == []


async def test_the_nearest_are_found_within_a_group_and_a_model(store: VectorStore) -> None:
    await store.put("t", [vector("a", at=0.0), vector("b", at=1.0), vector("c", at=5.0, group="other")])
    await store.put("t", [vector("old", at=0.1, model="old")])

    near = await store.search("t", [1.0, 0.0, 0.5], limit=2, model="m")
    other = await store.search("t", [2.0, 0.0, 1.0], group="other")

    assert [(hit.stored.owner, hit.text) for hit in near] == [("a", "a says 0"), ("b", "b says 0")]
    assert near[0].distance == pytest.approx(0, abs=1e-5)
    assert [hit.stored.id for hit in other] == ["c:0"]
    assert [hit.stored.owner for hit in await store.search("t", [1.0, 0.0, 0.5], limit=2)] == ["a", "old"]
    assert await store.search("t", [1.0, 0.0]) == []


async def test_a_vector_with_the_same_id_is_replaced_also_by_that_of_another_model(store: VectorStore) -> None:
    await store.put("t", [vector("a"), vector("b"), vector("a", at=1.0)])
    await store.put("t", [vector("a", at=3.0)])
    await store.put("t", [vector("b", at=3.0, model="new")])

    assert await all_ids(store) == ["a:0", "b:0"]
    (hit,) = await store.search("t", [1.0, 3.0, 0.5], limit=1, model="m")
    assert hit.stored.id == "a:0" and hit.distance == pytest.approx(0, abs=1e-5)
    assert [each.model for each in await store.of_owners("t", ["b"])] == ["new"]


async def test_owners_are_replaced_with_all_they_had(store: VectorStore) -> None:
    await store.put("t", [vector(owner, number) for owner in "abc" for number in range(3)])
    await store.put("t", [vector("a", 7, model="old")])

    await store.replace_owners("t", ["a", "b"], [vector("a", 0), vector("a", 9)])

    assert await all_ids(store) == ["a:0", "a:9", "c:0", "c:1", "c:2"]
    with pytest.raises(VectorStoreRefused, match="not named: c"):
        await store.replace_owners("t", ["a"], [vector("c")])


async def test_vectors_are_deleted_by_id_owner_and_group(store: VectorStore) -> None:
    await store.put("t", [vector(name, group=group) for name, group in zip("abcdef", "ggghhi", strict=True)])
    await store.put("t", [vector("z", group="i", model="old")])

    assert await store.delete("t", ids=["a:0", "none"], owners=["b"]) == 2
    assert await store.delete("t", groups=["i"]) == 2
    assert await store.delete("t") == 0
    assert await store.delete("t", groups=["i"]) == 0
    assert await all_ids(store) == ["c:0", "d:0", "e:0"]
    assert (await store.count("t"), await store.count("t", group="h")) == (3, 2)


async def test_owners_are_walked_in_order_and_in_pages(store: VectorStore) -> None:
    names = ["", "B", "a", "b's", "é", "字", "😀"]
    await store.put("t", [vector(name, number) for name in names for number in range(5)])
    await store.put("t", [vector("m", model="old"), vector("a", 8, model="old")])
    walked, after = [], ""
    while page := await store.owners("t", after=after, limit=3):
        walked.append(page)
        after = page[-1]

    assert walked == [["B", "a", "b's"], ["m", "é", "字"], ["😀"]]


async def test_ids_of_strangers_are_only_ever_ids(store: VectorStore) -> None:
    await store.put("t", [vector(name, group=name) for name in NASTY] + [vector("plain", group="plain")])

    for name in NASTY:
        assert [each.owner for each in await store.of_owners("t", [name])] == [name]
        assert await store.count("t", group=name) == 1
        assert [hit.stored.group for hit in await store.search("t", [1.0, 0.0, 0.0], group=name)] == [name]
    assert await store.delete("t", groups=NASTY[:6], owners=NASTY[6:]) == len(NASTY)
    assert await all_ids(store) == ["plain:0"]


async def test_what_does_not_fit_is_refused_and_changes_nothing(store: VectorStore) -> None:
    await store.put("t", [vector("a")])
    long = Vector("b:1", "b", "g", "m", "h", "text", [1.0] * 4)

    for wrong in ([long], [vector("b"), long], [vector("b"), vector("c", model="other")]):
        with pytest.raises(VectorStoreRefused, match="vectors of"):
            await store.put("t", wrong)
    with pytest.raises(VectorStoreRefused, match="cannot be stored"):
        await store.put("t", [vector("b\ud800")])
    with pytest.raises(VectorStoreRefused, match="table's name"):
        await store.put("../t", [vector("b")])
    assert await all_ids(store) == ["a:0"]


async def test_tables_are_apart(store: VectorStore) -> None:
    await store.put("one", [vector("a")])
    await store.put("one-more", [vector("b")])
    await store.put("one-more", [vector("c", model="M/x:y")])

    assert await store.tables() == ["one", "one-more"]
    assert await store.delete("one", owners=["a", "b", "c"]) == 1
    assert await store.count("one-more") == 2


async def test_compaction_merges_fragments_and_drops_old_versions_and_changes_no_vector(store: VectorStore) -> None:
    for number in range(6):
        await store.put("t", [vector(f"o{number}", at=float(number))])
    await store.delete("t", owners=["o5"])

    done = await store.compact("t", older_than=timedelta(milliseconds=1))

    assert (done.fragments_before, done.fragments_after) == (5, 1)
    assert done.versions_removed > 5 and 0 < done.bytes_after < done.bytes_before
    assert await all_ids(store) == [f"o{number}:0" for number in range(5)]
    assert [hit.stored.owner for hit in await store.search("t", [1.0, 4.0, 0.5], limit=1)] == ["o4"]
    again = await store.compact("t", older_than=timedelta(days=7))
    assert (again.fragments_after, again.bytes_after > 0) == (1, True)


# ---- several writers -------------------------------------------------------------------------------------------------


async def test_many_writers_of_one_process_lose_nothing_and_double_nothing(store: VectorStore) -> None:
    await asyncio.gather(
        *(store.replace_owners("t", ["same", f"o{n}"], [vector("same"), vector(f"o{n}")]) for n in range(8)),
        store.compact("t", older_than=timedelta(days=7)),
    )

    assert await all_ids(store) == [*(f"o{n}:0" for n in range(8)), "same:0"]


HOLDER = """
import fcntl, sys

with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""
WRITER = """
import asyncio, sys
from pathlib import Path
from actors.maintenance.vector_store.lance import LanceStore
from actors.maintenance.vector_store.port import Vector

async def main(folder, me):
    store = LanceStore(Path(folder))
    for n in range(4):
        owners = ["same", f"{me}-{n}"]
        await store.replace_owners("t", owners, [Vector(o, o, "g", "m", "h", "t", [1.0, 0.0, 0.0]) for o in owners])
        await store.delete("t", owners=[f"{me}-{n - 2}"])
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_many_processes_that_write_at_once_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(tmp_path), str(me), cwd=ROOT)
        for me in range(2)
    ]
    assert [await writer.wait() for writer in writers] == [0, 0]

    store = LanceStore(tmp_path)
    assert await all_ids(store) == [*(f"{me}-{n}" for me in range(2) for n in (2, 3)), "same"]
    await store.close()


async def test_a_store_sees_what_another_has_written(store: VectorStore, tmp_path: Path) -> None:
    other = LanceStore(tmp_path / "vectors")
    await store.put("t", [vector("a")])
    assert await other.count("t") == 1
    await store.put("t", [vector("b")])
    await other.delete("t", owners=["a"])

    assert await store.owners("t") == await other.owners("t") == ["b"]
    await other.close()


async def test_a_writer_that_is_cancelled_leaves_all_or_nothing(store: VectorStore) -> None:
    await store.put("t", [vector("a")])
    writing = asyncio.ensure_future(store.put("t", [vector("b"), vector("c")]))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert await all_ids(store) in (["a:0"], ["a:0", "b:0", "c:0"])
    await store.put("t", [vector("d")])


async def test_a_turn_that_does_not_come_is_unavailable_and_a_dead_holder_lets_go(tmp_path: Path) -> None:
    turns = Turns(tmp_path, seconds=0.1)
    async with turns.turn("t"):
        pass
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        str(tmp_path / ".t.lock"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None and await holder.stdout.readline()
    with pytest.raises(VectorStoreUnavailable, match="'t' is being written by others"):
        async with turns.turn("t"):
            pass
    async with turns.turn("another"):
        pass
    holder.kill()
    await holder.communicate()
    async with turns.turn("t"):
        pass


# ---- when it is down -------------------------------------------------------------------------------------------------


async def test_a_folder_that_is_none_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = LanceStore(tmp_path / "file")

    for asked in (store.tables(), store.put("t", [vector("a")]), store.delete("t", groups=["g"]), store.count("t")):
        with pytest.raises(VectorStoreUnavailable):
            await asked


async def test_a_damaged_table_is_unavailable(store: VectorStore, tmp_path: Path) -> None:
    await store.put("t", [vector("a")])
    for manifest in tmp_path.glob("vectors/*.lance/_versions/*.manifest"):
        manifest.write_bytes(b"nonsense")

    with pytest.raises(VectorStoreUnavailable):
        await store.count("t")


async def test_a_missing_extra_is_told_when_it_is_first_used(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "lancedb":
            raise ImportError("No module named 'lancedb'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(VectorStoreUnavailable, match=r"pip install 'verger\[vectors\]'"):
        await store.delete("t", groups=["g"])


# ---- conditions ------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.sampled_from("a'\\\"`;-\n")), min_size=1))
def test_a_condition_names_each_value_as_one_text(values: list[str]) -> None:
    (condition,) = among("owner", values)

    inside = condition.removeprefix("owner IN (").removesuffix(")")
    found, rest = [], inside
    while rest:
        assert rest.startswith("'")
        end = 1
        while rest[end : end + 1] != "'" or rest[end : end + 2] == "''":
            end += 2 if rest[end : end + 2] == "''" else 1
        found.append(rest[1:end].replace("''", "'"))
        rest = rest[end + 1 :].removeprefix(", ")
    assert found == list(dict.fromkeys(values))
