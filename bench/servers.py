"""The servers of one run of the benchmark: private, on free ports, gone at its end."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from bench.postgres import PostgresServer
from bench.redis import RedisServer
from tests.servers import MongoServer, RabbitServer


class Servers:
    """One MongoDB (a replica set of one node) and one RabbitMQ node; PostgreSQL and Redis once somebody asks for
    them.

    An async context manager.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._postgres: PostgresServer | None = None
        self._redis: RedisServer | None = None

    async def __aenter__(self) -> "Servers":
        try:
            folder = TemporaryDirectory(prefix="verger-bench-", ignore_cleanup_errors=True)
            self.folder = Path(self._stack.enter_context(folder))
            self.mongo, self.rabbit = MongoServer(self.folder / "mongo"), RabbitServer(self.folder / "rabbit")
            for server in (self.mongo, self.rabbit):
                self._stack.callback(server.stop)
                server.spawn()
            for server in (self.mongo, self.rabbit):
                await server.ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    async def postgres(self) -> PostgresServer:
        """Starts with the first call. Raises RuntimeError: it is not installed."""
        if self._postgres is None:
            self._postgres = PostgresServer()
            self._stack.callback(self._postgres.stop)
        await self._postgres.ready()
        return self._postgres

    async def redis(self) -> RedisServer:
        """Starts with the first call. Raises RuntimeError: it is not installed."""
        if self._redis is None:
            self._redis = RedisServer(self.folder / "redis")
            self._stack.callback(self._redis.stop)
        await self._redis.ready()
        return self._redis
