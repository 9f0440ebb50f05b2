"""Vectors as rows of a LanceDB table, and conditions on them."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from actors.maintenance.vector_store.port import Stored, Vector, VectorStoreRefused

TABLE = re.compile(r"[A-Za-z0-9_-]{1,80}")
KNOWN = ("id", "owner", "group_id", "model", "content_hash")
"""The columns of ``Stored``; ``group`` is a word of SQL."""
NAMES_AT_ONCE = 1000
"""In one condition."""


def physical(table: str, model: str) -> str:
    """The name of LanceDB's table: each model has its own, for vectors of different models have nothing in common."""
    mark = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{checked(table)}.{re.sub(r'[^A-Za-z0-9_-]+', '-', model)[:60]}-{mark}"


def logical(name: str) -> str:
    return name.partition(".")[0]


def checked(table: str) -> str:
    """Raises VectorStoreRefused."""
    if not TABLE.fullmatch(table):
        raise VectorStoreRefused(f"{table[:80]!r} cannot be a table's name: it is not {TABLE.pattern}")
    return table


def among(column: str, values: Sequence[str]) -> Iterator[str]:
    """Conditions that a column is one of these, so many at once."""
    wanted = list(dict.fromkeys(values))
    for start in range(0, len(wanted), NAMES_AT_ONCE):
        yield f"{column} IN ({', '.join(map(quoted, wanted[start : start + NAMES_AT_ONCE]))})"


def quoted(value: str) -> str:
    """As a text of SQL, where only the quote itself is special."""
    return "'" + value.replace("'", "''") + "'"


def schema(dimension: int) -> Any:
    import pyarrow as pa

    texts = [pa.field(name, pa.string(), nullable=False) for name in (*KNOWN, "text")]
    return pa.schema([*texts, pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False)])


def rows(vectors: Sequence[Vector]) -> Any:
    """An Arrow table. Of several with one id the last counts. Raises VectorStoreRefused."""
    import pyarrow as pa

    last = list({vector.id: vector for vector in vectors}.values())
    dimension = len(last[0].values)
    if not dimension or any(len(vector.values) != dimension for vector in last):
        raise VectorStoreRefused(f"vectors of different lengths: {sorted({len(vector.values) for vector in last})}")
    texts = [(v.id, v.owner, v.group, v.model, v.content_hash, v.text) for v in last]
    try:
        columns = [pa.array(column, pa.string()) for column in zip(*texts, strict=True)]
        values = pa.array([float(value) for vector in last for value in vector.values], pa.float32())
    except (UnicodeEncodeError, TypeError, ValueError) as error:
        raise VectorStoreRefused(f"a vector cannot be stored: {str(error)[:200]}") from None
    return pa.table([*columns, pa.FixedSizeListArray.from_arrays(values, dimension)], schema=schema(dimension))


def stored(row: dict[str, Any]) -> Stored:
    return Stored(*(row[name] for name in KNOWN))
