"""``verger dev`` keeps a real mongod to itself, and leaves nothing behind but the data."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymongo
import pytest

from actors import embedded
from actors.embedded import read_instance, start_mongod
from service.child_process import free_port
from service.errors import ConfigError, StoreUnavailable
from service.mongod import check_mongod, find_mongod

DEV = """
import asyncio, sys
from pathlib import Path
from actors.embedded import start_mongod

async def main():
    mongo = await start_mongod(Path(sys.argv[1]))
    print(mongo.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def insert(url: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        client["test"].things.insert_one({})


def count(url: str) -> int:
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        return client["test"].things.count_documents({})


def a_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port where a stranger listens and never answers."""
    with ExitStack() as undo:
        stranger = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield stranger.getsockname()[1]


async def test_data_survives_a_restart_also_on_another_port(tmp_path: Path) -> None:
    first = await start_mongod(tmp_path)
    insert(first.url)
    await first.stop()
    (tmp_path / "mongod.port").unlink()

    second = await start_mongod(tmp_path)

    assert second.url != first.url
    assert count(second.url) == 1
    await second.stop()


async def test_the_running_instance_is_found_through_its_folder_and_alone_on_it(tmp_path: Path) -> None:
    mongo = await start_mongod(tmp_path)

    instance = read_instance(tmp_path)
    with pytest.raises(ConfigError, match=rf"process {os.getpid()}\) runs on .*set VERGER_DATA_DIR"):
        await start_mongod(tmp_path)

    assert instance is not None
    assert (instance.mongodb_url, instance.pid) == (mongo.url, os.getpid())
    assert set(json.loads((tmp_path / "instance.json").read_text())) == {"mongodbUrl", "pid", "startedAt"}
    await mongo.stop()
    await mongo.stop()
    assert read_instance(tmp_path) is None
    assert not (tmp_path / "instance.json").exists()


async def test_a_killed_instance_takes_its_server_along_and_is_not_found(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DEV, str(tmp_path)], stdout=subprocess.PIPE, text=True) as dev:
        assert dev.stdout is not None
        dev.stdout.readline()
        instance = read_instance(tmp_path)
        assert instance is not None
        insert(instance.mongodb_url)

        dev.kill()

    assert (tmp_path / "instance.json").exists()
    assert read_instance(tmp_path) is None
    again = await start_mongod(tmp_path)  # would be refused by a server that still held the files
    assert count(again.url) == 1
    await again.stop()


async def test_ctrl_c_does_not_reach_the_server(tmp_path: Path) -> None:
    mongo = await start_mongod(tmp_path)

    assert os.getpgid(mongo.pid) != os.getpgid(0)
    await mongo.stop()


async def test_a_server_that_dies_is_noticed(tmp_path: Path) -> None:
    mongo = await start_mongod(tmp_path)

    os.kill(mongo.pid, signal.SIGKILL)

    assert await asyncio.wait_for(mongo.wait(), 30) == -signal.SIGKILL
    await mongo.stop()


async def test_a_port_that_was_taken_meanwhile_is_given_up(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers = [taken_port]
    monkeypatch.setattr(embedded, "free_port", lambda preferred=0: offers.pop() if offers else free_port())

    mongo = await start_mongod(tmp_path)

    assert f":{taken_port}/" not in mongo.url
    assert not offers
    await mongo.stop()


async def test_the_log_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES", 1000)
    monkeypatch.setattr(embedded, "LOG_LOOK_SECONDS", 0.05)
    mongo = await start_mongod(tmp_path)

    async with asyncio.timeout(30):
        while not (tmp_path / "mongod.log.1").exists() or not (tmp_path / "mongod.log").exists():
            await asyncio.sleep(0.02)

    await mongo.stop()


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="VERGER_DATA_DIR .*file.* cannot be used"):
        await start_mongod(tmp_path / "file")


async def test_a_server_that_does_not_start_names_its_log(tmp_path: Path) -> None:
    broken = a_program(tmp_path / "mongod", '[ "$1" = --version ] && echo "db version v7.0.1" && exit; exit 14')

    with pytest.raises(StoreUnavailable, match=r"exit code 14; see .*mongod\.log"):
        await start_mongod(tmp_path / "data", mongod=broken)


@pytest.mark.usefixtures("nothing_installed")
def test_without_any_mongod_the_ways_to_get_one_are_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)extra `embedded`.*PATH.*VERGER_MONGOD.*VERGER_MONGODB_URL"):
        find_mongod()


def test_a_configured_mongod_must_be_a_program(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="VERGER_MONGOD is .*which is not a program"):
        find_mongod(tmp_path / "none")


def test_the_mongod_of_the_extra_is_made_executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = a_program(tmp_path / "fiftyone" / "db" / "bin" / "mongod", "")
    (tmp_path / "fiftyone" / "__init__.py").write_text("raise AssertionError('imported')")
    bundled.chmod(0o644)
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(tmp_path)

    assert find_mongod() == bundled
    assert os.access(bundled, os.X_OK)


async def test_a_mongod_that_is_too_old_or_does_not_run_is_refused(tmp_path: Path) -> None:
    old = a_program(tmp_path / "old", "echo 'db version v5.0.9'")
    broken = a_program(tmp_path / "broken", "echo 'error while loading shared libraries: libcurl.so.4'; exit 127")

    with pytest.raises(ConfigError, match=r"MongoDB 5\.0; 6\.0 or later"):
        await check_mongod(old)
    with pytest.raises(ConfigError, match=r"does not run here: .*libcurl\.so\.4"):
        await check_mongod(broken)
