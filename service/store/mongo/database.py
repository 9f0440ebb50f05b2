"""The connection: time limits, repeats, and driver errors translated at this edge."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bson.errors import InvalidDocument
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from service.errors import ConfigError, StoreUnavailable
from service.settings import hide_password

Document = dict[str, Any]
Collection = AsyncIOMotorCollection[Document]
T = TypeVar("T")

OPERATION_SECONDS = 4.0
"""Limit of one operation, on the server too. Well below the 5 s after which an open fire changes hands (P18)."""
REPEAT_SECONDS = 8.0
"""How long an idempotent operation is repeated while the store is away."""

# Codes of a server that is going away, or of a time limit: the outcome is unknown.
_PASSING = frozenset({50, 64, 91, 189, 262, 10107, 11600, 11602, 13435, 13436})
_DENIED = frozenset({13, 18, 8000})

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
    if isinstance(error, ConnectionFailure) or error.timeout:
        return True
    if isinstance(error, BulkWriteError):
        return bool((error.details or {}).get("writeConcernErrors"))
    return isinstance(error, OperationFailure) and (error.code in _PASSING or error.has_error_label("RetryableWriteError"))


def translate(error: PyMongoError, url: str) -> Exception:
    """The error of ours for an error of the driver."""
    where = hide_password(url)
    if is_passing(error):
        return StoreUnavailable(f"MongoDB at {where} does not answer: {short(error)}")
    if isinstance(error, OperationFailure) and error.code in _DENIED:
        return ConfigError(f"MongoDB at {where} denies access: {short(error)}; see user, password and roles in VERGER_MONGODB_URL")
    if isinstance(error, (ConfigurationError, InvalidURI)):
        return ConfigError(f"VERGER_MONGODB_URL ({where}): {short(error)}")
    return error


def short(error: Exception) -> str:
    """The first line, bounded: driver errors carry whole topologies."""
    return str(error).partition(", full error")[0].partition(", Timeout:")[0].partition("\n")[0][:300]


class Database:
    """One client, one database, and the rule by which operations are run."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        try:
            self.client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(url, **OPTIONS)
        except PyMongoError as error:
            raise translate(error, url) from error
        self._database = self.client[name]
        self.tasks: Collection = self._database["tasks"]
        self.schedules: Collection = self._database["schedules"]
        self.types: Collection = self._database["task_types"]
        self.workers: Collection = self._database["workers"]

    async def once(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation whose repetition is not harmless; the driver itself repeats retryable writes once.

        Raises StoreUnavailable: the outcome is unknown.
        """
        try:
            return await operation()
        except PyMongoError as error:
            raise translate(error, self.url) from error

    async def repeat(self, operation: Callable[[], Awaitable[T]], seconds: float = REPEAT_SECONDS) -> T:
        """Run an idempotent operation, again and again while the store is away, for at most ``seconds``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        pause = 0.1
        while True:
            try:
                return await operation()
            except PyMongoError as error:
                if not is_passing(error) or loop.time() + pause > until:
                    raise translate(error, self.url) from error
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, 2.0)
