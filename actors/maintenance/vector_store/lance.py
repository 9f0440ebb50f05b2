"""Vectors in LanceDB, which keeps them in files of a folder: no server. Needs the extra ``vectors``."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any, TypeVar

from actors.maintenance.blocking import in_thread, to_the_end
from actors.maintenance.vector_store.port import (
    Compacted,
    Hit,
    Stored,
    Vector,
    VectorStore,
    VectorStoreRefused,
    VectorStoreUnavailable,
)
from actors.maintenance.vector_store.rows import (
    KNOWN,
    among,
    checked,
    logical,
    physical,
    quoted,
    rows,
    schema,
    stored,
)
from actors.maintenance.vector_store.turns import Turns

INDEXED = ("id", "owner", "group_id")
CONFLICTS = 5
"""Commits lost to writers that do not take turns, such as those of another tool, before it gives up."""
T = TypeVar("T")


class LanceStore(VectorStore):
    """One folder of tables. Each table is several of LanceDB's, one a model, so that a search never mixes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turns = Turns(folder)
        self._opening = asyncio.Lock()
        self._connection: Any = None

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ---- the port --------------------------------------------------------------------------------

    async def tables(self) -> list[str]:
        return sorted({logical(name) for name in await self._names()})

    async def put(self, table: str, vectors: Sequence[Vector]) -> None:
        if vectors:
            name = _one_model(table, vectors)
            async with self._turns.turn(checked(table)):
                await to_the_end(self._put(table, name, vectors))

    async def replace_owners(self, table: str, owners: Sequence[str], vectors: Sequence[Vector]) -> None:
        if not owners and not vectors:
            return
        if strange := {vector.owner for vector in vectors}.difference(owners):
            raise VectorStoreRefused(f"vectors of owners that were not named: {', '.join(sorted(strange)[:3])}")
        name = _one_model(table, vectors) if vectors else None
        async with self._turns.turn(checked(table)):
            await to_the_end(self._replace(table, name, owners, vectors))

    async def delete(
        self, table: str, *, ids: Sequence[str] = (), owners: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> int:
        where = [*among("id", ids), *among("owner", owners), *among("group_id", groups)]
        if not where or not await self._of(table):
            return 0
        async with self._turns.turn(checked(table)):
            return await to_the_end(self._delete([(name, where) for name in await self._of(table)]))

    async def count(self, table: str, *, group: str | None = None) -> int:
        where = None if group is None else f"group_id = {quoted(group)}"
        return sum([await _ask((await self._open(name)).count_rows(where)) for name in await self._of(table)])

    async def owners(self, table: str, *, after: str = "", limit: int = 1000) -> list[str]:
        found: set[str] = set()
        for name in await self._of(table):
            found.update(await self._owners(name, after, limit))
        return nsmallest(limit, found)

    async def of_owners(self, table: str, owners: Sequence[str]) -> list[Stored]:
        found = []
        for name in await self._of(table):
            for where in among("owner", owners):
                found += [stored(row) for row in await self._rows(name, where)]
        return found

    async def search(
        self,
        table: str,
        values: Sequence[float],
        *,
        limit: int = 10,
        group: str | None = None,
        model: str | None = None,
    ) -> list[Hit]:
        hits: list[Hit] = []
        names = await self._of(table)
        for name in names if model is None else [name for name in names if name == physical(table, model)]:
            opened = await self._open(name)
            if _dimension(await _ask(opened.schema())) != len(values):
                continue
            query = opened.query().nearest_to(list(values)).distance_type("cosine").limit(limit)
            if group is not None:
                query = query.where(f"group_id = {quoted(group)}")
            found = await _ask(query.select([*KNOWN, "text", "_distance"]).to_list())
            hits += [Hit(stored(row), row["text"], row["_distance"]) for row in found]
        return nsmallest(limit, hits, key=lambda hit: (hit.distance, hit.stored.id))

    async def compact(self, table: str, *, older_than: timedelta) -> Compacted:
        total = Compacted(0, 0, 0, 0, 0)
        for name in await self._of(table):
            async with self._turns.turn(table):
                one = await to_the_end(self._compact(name, older_than))
            total = Compacted(*(getattr(total, field) + getattr(one, field) for field in Compacted.__slots__))
        return total

    # ---- LanceDB's tables ------------------------------------------------------------------------

    async def _connect(self) -> Any:
        async with self._opening:
            if self._connection is None:
                connect = await in_thread(_import)
                self._connection = await _ask(connect(str(self._folder)))
            return self._connection

    async def _names(self) -> list[str]:
        connection = await self._connect()
        names: list[str] = []
        token = None
        while True:
            page = await _ask(connection.list_tables(page_token=token))
            names += page.tables
            token = page.page_token
            if not token:
                return [name for name in names if "." in name]

    async def _of(self, table: str) -> list[str]:
        checked(table)
        return [name for name in await self._names() if logical(name) == table]

    async def _open(self, name: str) -> Any:
        # Each time: that is the way to see what other processes have written, and costs less than a millisecond.
        return await _ask((await self._connect()).open_table(name))

    async def _made(self, name: str, dimension: int) -> Any:
        """Opened, or made with its indexes."""
        if name in await self._names():
            return await self._open(name)
        from lancedb.index import BTree

        opened = await _ask((await self._connect()).create_table(name, schema=schema(dimension), exist_ok=True))
        for column in INDEXED:
            await _ask(opened.create_index(column, config=BTree()))
        return opened

    async def _rows(self, name: str, where: str) -> list[dict[str, Any]]:
        query = (await self._open(name)).query().where(where).select([*KNOWN])
        found: list[dict[str, Any]] = await _ask(query.to_list())
        return found

    async def _owners(self, name: str, after: str, limit: int) -> set[str]:
        from lancedb.query import ColumnOrdering

        opened = await self._open(name)
        order = [ColumnOrdering(column_name="owner", ascending=True, nulls_first=False)]
        found: set[str] = set()
        while len(found) < limit:
            query = opened.query().where(f"owner > {quoted(after)}").select(["owner"]).order_by(order).limit(limit)
            column = (await _ask(query.to_arrow()))["owner"]
            found.update(column.to_pylist())
            if len(column) < limit:
                break
            after = column[-1].as_py()
        return found

    # ---- writes: their table's turn is held ----------------------------------------------------------

    async def _put(self, table: str, name: str, vectors: Sequence[Vector]) -> None:
        await self._merge(name, vectors)
        if others := [other for other in await self._of(table) if other != name]:
            where = list(among("id", [vector.id for vector in vectors]))
            await self._delete([(other, where) for other in others])

    async def _merge(self, name: str, vectors: Sequence[Vector]) -> None:
        new = await in_thread(rows, vectors)
        given = _dimension(new.schema)
        opened = await self._made(name, given)
        wanted = _dimension(await _ask(opened.schema()))
        if wanted != given:
            raise VectorStoreRefused(f"vectors of {given} numbers, where those of this model have {wanted}")

        def write() -> Awaitable[Any]:
            merge = opened.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            execute: Awaitable[Any] = merge.execute(new)
            return execute

        await _commit(write)

    async def _replace(self, table: str, name: str | None, owners: Sequence[str], vectors: Sequence[Vector]) -> None:
        # The new ones first: whoever searches meanwhile, or after a crash here, finds too much rather than nothing.
        if name is not None:
            await self._merge(name, vectors)
        kept = {vector.id for vector in vectors}
        stale = []
        for other in await self._of(table):
            ids = [
                row["id"]
                for where in among("owner", owners)
                for row in await self._rows(other, where)
                if other != name or row["id"] not in kept
            ]
            stale.append((other, list(among("id", ids))))
        await self._delete(stale)

    async def _delete(self, conditions: Sequence[tuple[str, Sequence[str]]]) -> int:
        deleted = 0
        for name, where in conditions:
            opened = await self._open(name)
            for condition in where:
                outcome = await _commit(partial(opened.delete, condition))
                deleted += outcome.num_deleted_rows
        return deleted

    async def _compact(self, name: str, older_than: timedelta) -> Compacted:
        opened = await self._open(name)
        place = self._folder / f"{name}.lance"
        bytes_before, before = await in_thread(_size, place), await _fragments(opened)
        outcome = await _commit(lambda: opened.optimize(cleanup_older_than=older_than))
        removed = outcome.prune.old_versions_removed if outcome is not None else 0
        return Compacted(bytes_before, await in_thread(_size, place), before, await _fragments(opened), removed)


def _import() -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise VectorStoreUnavailable(
            f"LanceDB cannot be imported ({error}); install the extra: pip install 'verger[vectors]'"
        ) from error
    return lancedb.connect_async


def _one_model(table: str, vectors: Sequence[Vector]) -> str:
    models = {vector.model for vector in vectors}
    if len(models) != 1:
        raise VectorStoreRefused(f"vectors of several models at once: {', '.join(sorted(models))}")
    return physical(table, models.pop())


def _dimension(of: Any) -> int:
    dimension: int = of.field("vector").type.list_size
    return dimension


async def _fragments(opened: Any) -> int:
    stats = await _ask(opened.stats())
    count: int = stats["fragment_stats"]["num_fragments"]
    return count


def _size(folder: Path) -> int:
    size = 0
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                size += os.lstat(os.path.join(root, file)).st_size  # noqa: PTH118 - millions of Paths are slow
            except FileNotFoundError:
                continue
    return size


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, ValueError, MemoryError) as error:
        raise VectorStoreUnavailable(f"LanceDB failed: {str(error)[:300]}") from error


async def _ask(answer: Awaitable[T]) -> T:
    with _translated():
        return await answer


async def _commit(write: Callable[[], Awaitable[Any]]) -> Any:
    for attempt in range(1, CONFLICTS + 1):
        try:
            with _translated():
                return await write()
        except VectorStoreUnavailable as error:
            if "conflict" not in str(error).lower() or attempt == CONFLICTS:
                raise
            await asyncio.sleep(0.1 * attempt)
    raise AssertionError("unreachable")
