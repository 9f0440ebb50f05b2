"""The port of vector stores: tables of vectors that are found by nearness, owner and group."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Protocol

from pydantic import StringConstraints

from service.errors import VergerError


class VectorStoreUnavailable(VergerError):
    """The vector store cannot be reached, or its disk fails: try again later. What was asked may have been done."""


class VectorStoreRefused(VergerError):
    """The vector store will not take this, such as vectors of another length than the table's."""


TableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,80}$")]


@dataclass(frozen=True, slots=True)
class Vector:
    """One chunk of something, and where it is in space."""

    id: str
    """Unique in its table; a vector with the same id is replaced."""
    owner: str
    """The id of the document that it was made from: a message, a memory, a file, an entry."""
    group: str
    """What is deleted together: a session, a tenant, a conversation group."""
    model: str
    """``Embedder.model``."""
    content_hash: str
    """Of the text: SHA-256, hexadecimal."""
    text: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of a stored vector without its values."""

    id: str
    owner: str
    group: str
    model: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A vector near to what was asked for."""

    stored: Stored
    text: str
    distance: float
    """Cosine distance: 0 is the same direction, 2 the opposite."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """A table before and after its compaction."""

    bytes_before: int
    bytes_after: int
    fragments_before: int
    fragments_after: int
    versions_removed: int


class VectorStore(Protocol):
    """Tables come into being with their first vector; one that does not exist is as good as an empty one.

    The vectors of one model in a table are all of one length; those of another model may have another, which is how a
    service changes its model: the same table holds both, until what the old one made has been replaced.
    Safe to use by many runs at once, also of several processes. Every method raises VectorStoreUnavailable.
    """

    @abstractmethod
    async def tables(self) -> list[str]:
        """The names of all tables."""

    @abstractmethod
    async def put(self, table: str, vectors: Sequence[Vector]) -> None:
        """Insert, or replace those with the same ids; all or none, and all of one model. Raises VectorStoreRefused."""

    @abstractmethod
    async def replace_owners(self, table: str, owners: Sequence[str], vectors: Sequence[Vector]) -> None:
        """Make these the only vectors of these owners, of any model: what they had besides is deleted, afterwards.

        Raises VectorStoreRefused.
        """

    @abstractmethod
    async def delete(
        self,
        table: str,
        *,
        ids: Sequence[str] = (),
        owners: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> int:
        """Delete the vectors with any of these; answers how many there were."""

    @abstractmethod
    async def count(self, table: str, *, group: str | None = None) -> int:
        """How many vectors there are."""

    @abstractmethod
    async def owners(self, table: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Different owners after ``after``, in the order of their code points: to walk in bounded memory.

        As many as ``limit`` if there are so many.
        """

    @abstractmethod
    async def of_owners(self, table: str, owners: Sequence[str]) -> list[Stored]:
        """The vectors of these owners, without values."""

    @abstractmethod
    async def search(
        self,
        table: str,
        values: Sequence[float],
        *,
        limit: int = 10,
        group: str | None = None,
        model: str | None = None,
    ) -> list[Hit]:
        """The nearest, nearest first. ``model``: what made ``values``; None: any whose vectors are as long."""

    @abstractmethod
    async def compact(self, table: str, *, older_than: timedelta) -> Compacted:
        """Merge fragments, and remove versions older than this; searches go on meanwhile."""
