"""Servers with TLS and authentication, started once for these tests."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.security.servers import SecureMongo, SecureRabbit
from tests.servers import server_data


@dataclass
class Secured:
    mongo: SecureMongo
    rabbit: SecureRabbit


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with ExitStack() as undo:
        folder = Path(undo.enter_context(server_data()))
        servers = Secured(SecureMongo(folder / "mongo"), SecureRabbit(folder / "rabbit"))
        for server in (servers.mongo, servers.rabbit):
            undo.callback(server.stop)
            server.spawn()
        # In a thread, for here the event loops are the tests' own.
        with ThreadPoolExecutor(2) as threads:
            ready = [threads.submit(asyncio.run, server.ready()) for server in (servers.mongo, servers.rabbit)]
        for each in ready:
            each.result()
        yield servers
