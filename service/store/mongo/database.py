"""The connection: time limits, repeats, and driver errors translated at this edge."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bson.errors import InvalidDocument
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import ReturnDocument
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from service.errors import ConfigError, PayloadRefused, StoreUnavailable
from service.settings import hide_password

Document = dict[str, Any]
Collection = AsyncIOMotorCollection[Document]
T = TypeVar("T")

OPERATION_SECONDS = 4.0
"""Limit of one operation, on the server too. Well below the 5 s after which an open fire changes hands (P18)."""
REPEAT_SECONDS = 8.0
"""How long an idempotent operation is repeated while the store is away."""
GOODBYE_SECONDS = 1.0
"""How long closing may take when the server does not answer."""

# Codes of a server that is going away or is cut off, or of a time limit: the outcome is unknown.
_PASSING = frozenset(
    {6, 7, 24, 43, 50, 64, 89, 91, 112, 134, 189, 262, 317, 9001, 10107, 11600, 11601, 11602, 13435, 13436}
)
_DENIED = frozenset({11, 13, 18, 8000})
# Codes of a document that the server will never keep: too deep, too large, or refused by a validator.
_REFUSED = frozenset({15, 22, 52, 55, 56, 57, 121, 10334, 17419, 17420})

DUPLICATE_KEY = 11000

UNSTORABLE = (InvalidDocument, OverflowError, UnicodeError, RecursionError)
"""What encoding a document raises when a value does not fit BSON."""

OPTIONS: dict[str, Any] = {
    "w": "majority",
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "retryWrites": True,
    "retryReads": True,
    "tz_aware": True,
    "connectTimeoutMS": 4000,
    "serverSelectionTimeoutMS": 4000,
    "timeoutMS": int(OPERATION_SECONDS * 1000),
    "appname": "verger",
}


def is_passing(error: PyMongoError) -> bool:
    """Whether the error says that the server cannot be reached, or that the outcome is unknown."""
    if isinstance(error, ConnectionFailure) or error.timeout or error.has_error_label("RetryableWriteError"):
        return True
    if isinstance(error, BulkWriteError) and (error.details or {}).get("writeConcernErrors"):
        return True
    return not _codes(error).isdisjoint(_PASSING)


def is_unstorable(error: Exception) -> bool:
    """Whether the error says that a document can never be kept, whoever asks."""
    if isinstance(error, PyMongoError):
        return not is_passing(error) and not _codes(error).isdisjoint(_REFUSED)
    return isinstance(error, UNSTORABLE)


def _codes(error: PyMongoError) -> set[int]:
    """The server's code, or those of each write in a bulk."""
    if isinstance(error, BulkWriteError):
        return {problem["code"] for problem in (error.details or {}).get("writeErrors", ())}
    return {error.code} if isinstance(error, OperationFailure) and error.code is not None else set()


def translate(error: Exception, url: str) -> Exception:
    """The error of ours for an error of the driver."""
    where = hide_password(url)
    if is_unstorable(error):
        return PayloadRefused("document", short(error), "cannot be stored", "send smaller, flatter JSON")
    if isinstance(error, (ConfigurationError, InvalidURI)):
        return ConfigError(f"VERGER_MONGODB_URL ({where}): {short(error)}")
    if isinstance(error, OperationFailure) and error.code in _DENIED:
        return ConfigError(
            f"MongoDB at {where} denies access: {short(error)}; see user, password and roles in VERGER_MONGODB_URL"
        )
    if isinstance(error, (ConnectionFailure, OperationFailure)):
        return StoreUnavailable(f"MongoDB at {where} does not answer: {short(error)}")
    return error


async def change(collection: Collection, which: Document, update: Document, *, upsert: bool = False) -> Document | None:
    """One atomic compare-and-set; the document as it then is, None if nothing matched."""
    return await collection.find_one_and_update(which, update, upsert=upsert, return_document=ReturnDocument.AFTER)


def short(error: Exception) -> str:
    """The first line, bounded: driver errors carry whole topologies."""
    return str(error).partition(", full error")[0].partition(", Timeout:")[0].partition("\n")[0][:300]


class Database:
    """One client, one database, and the rule by which operations are run."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.errors = 0
        try:
            self.client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(url, **OPTIONS)
        except PyMongoError as error:
            raise translate(error, url) from error
        except ValueError as error:  # a port that is no number, before the driver calls it an error of its own
            raise ConfigError(f"VERGER_MONGODB_URL ({hide_password(url)}): {short(error)}") from error
        self._database = self.client[name]
        self.tasks: Collection = self._database["tasks"]
        self.settled_tasks: Collection = self.tasks.with_options(read_concern=ReadConcern("linearizable"))
        """For reading back: sees a write whose reply was lost although a majority has it only now."""
        self.schedules: Collection = self._database["schedules"]
        self.revisions: Collection = self._database["revisions"]
        """One document, of the whole set of schedules: what makes two replacements of it conflict."""
        self.types: Collection = self._database["task_types"]
        self.workers: Collection = self._database["workers"]
        self.audit: Collection = self._database["audit"]

    async def once(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation whose repetition is not harmless; the driver itself repeats retryable writes.

        Raises StoreUnavailable: the outcome is unknown. A duplicate key is the caller's to explain, here and in
        ``repeat``.
        """
        try:
            return await operation()
        except DuplicateKeyError:
            raise
        except (PyMongoError, *UNSTORABLE) as error:
            self._count(error)
            raise translate(error, self.url) from error

    async def repeat(self, operation: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        """Run an idempotent operation, again and again while the store is away: ``seconds``, or ``REPEAT_SECONDS``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + (REPEAT_SECONDS if seconds is None else seconds)
        pause = 0.1
        while True:
            try:
                return await operation()
            except DuplicateKeyError:
                raise
            except (PyMongoError, *UNSTORABLE) as error:
                self._count(error)
                passing = isinstance(error, PyMongoError) and is_passing(error)
                if not passing or loop.time() + pause > until:
                    raise translate(error, self.url) from error
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, 2.0)

    def _count(self, error: Exception) -> None:
        # A document that cannot be kept is no fault of the store's.
        if not is_unstorable(error):
            self.errors += 1
