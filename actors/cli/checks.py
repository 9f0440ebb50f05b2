"""What ``verger doctor`` looks at. Each check ends in findings, whatever happens; none shows a password."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from actors.cli.logs import set_up_logs
from actors.composition import make_broker, make_store, task_types
from actors.embedded import read_instance
from schemas.duration import format_duration
from service.broker.port import Broker
from service.clock import StoreClock
from service.errors import ConfigError, VergerError
from service.mongod import check_mongod, find_mongod
from service.overview import SEEN_WITHIN, alive_workers
from service.registry import Registry, load
from service.settings import MEMORY_BROKER, PREFIX, Settings, hide_password, load_settings
from service.store.port import Store

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 1024**3
ENOUGH_DISK, TOO_LITTLE_DISK = 2 * GIB, GIB // 4
MUCH_OFFSET = timedelta(seconds=5)
LONGEST_CHECK_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    name: str
    status: str
    """``ok``, ``warn`` or ``fail``."""
    detail: str
    todo: str = ""
    """What to do about it."""


async def examine() -> list[Finding]:
    """All checks, in the order in which one builds on another."""
    try:
        settings = load_settings()
    except ConfigError as error:
        return [Finding("settings", FAIL, str(error), "see docs/configuration.md")]
    # What fails is found below, in words: the libraries' own lines would repeat it.
    set_up_logs(settings, log_level="error", log_format="console")
    found = [_settings(settings)]
    registry, finding = _actors(settings)
    found.append(finding)
    found.append(_data_dir(settings))
    found.append(_disk(settings))
    if settings.embedded:
        found.append(await _mongod(settings))
    async with AsyncExitStack() as stack:
        found += [finding async for finding in _servers(settings, registry, stack)]
    return found


def _settings(settings: Settings) -> Finding:
    given = sorted(PREFIX + name.upper() for name in settings.model_fields_set)
    return Finding("settings", OK, f"{', '.join(given)} from the environment" if given else "all at their defaults")


def _actors(settings: Settings) -> tuple[Registry, Finding]:
    try:
        registry = load(settings.actors)
    except ConfigError as error:
        todo = "mend the module, or name others in VERGER_ACTORS"
        return Registry(), Finding("actors", FAIL, str(error), todo)
    unknown = [name for name in settings.types if registry.find(name) is None]
    if unknown:
        known = ", ".join(sorted(handler.task_type for handler in registry))
        return registry, Finding(
            "actors", FAIL, f"VERGER_TYPES names {unknown[0]!r}, which nothing handles", f"known: {known}"
        )
    return registry, Finding("actors", OK, f"{len(registry)} task types from {', '.join(settings.actors)}")


def _data_dir(settings: Settings) -> Finding:
    folder = settings.data_dir
    present = _existing(folder)
    if not present.is_dir():
        return Finding("data", FAIL, f"{present} is no folder", "set VERGER_DATA_DIR to another one")
    if present != folder.absolute():
        if os.access(present, os.W_OK):
            return Finding("data", OK, f"{folder} will be made")
        return Finding("data", FAIL, f"{folder} cannot be made: {present} is read-only", "set VERGER_DATA_DIR")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            "data", FAIL, f"{folder} cannot be written: {error.strerror}", "chown it, or set VERGER_DATA_DIR"
        )
    return Finding("data", OK, f"{folder} can be written")


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(_existing(settings.data_dir)).free
    detail = f"{free / GIB:.1f} GiB free under {settings.data_dir}"
    if free < TOO_LITTLE_DISK:
        return Finding("disk", FAIL, detail, "make room: MongoDB and backups stop when the disk is full")
    if free < ENOUGH_DISK:
        return Finding("disk", WARN, detail, "make room, or set VERGER_DATA_DIR to a larger disk")
    return Finding("disk", OK, detail)


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    folder = folder.absolute()
    return next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))


async def _mongod(settings: Settings) -> Finding:
    try:
        binary = find_mongod(settings.mongod)
        await check_mongod(binary)
    except ConfigError as error:
        return Finding("mongod", FAIL, str(error))
    except OSError as error:
        return Finding("mongod", FAIL, f"the mongod does not run: {error.strerror}", "set VERGER_MONGOD to another")
    return Finding("mongod", OK, f"{binary}, for embedded mode")


# ---- servers ---------------------------------------------------------------------------------------------------------


async def _servers(settings: Settings, registry: Registry, stack: AsyncExitStack) -> AsyncIterator[Finding]:
    url = settings.mongodb_url
    if settings.embedded:
        try:
            instance = read_instance(settings.data_dir)
        except ConfigError as error:
            yield Finding("instance", FAIL, str(error), "read it as the user who runs verger dev")
            return
        if instance is None:
            yield Finding("instance", WARN, f"none runs on {settings.data_dir}", "start one: verger dev, or make run")
            return
        yield Finding("instance", OK, f"process {instance.pid} runs on {settings.data_dir}")
        url = instance.mongodb_url
    clock = StoreClock()
    async for finding in _store(settings, url, clock, stack):
        yield finding
    yield await _broker(settings, registry, clock, stack)


async def _store(settings: Settings, url: str, clock: StoreClock, stack: AsyncExitStack) -> AsyncIterator[Finding]:
    try:
        store = make_store(settings, url, clock)
        stack.push_async_callback(store.close)
        async with asyncio.timeout(LONGEST_CHECK_SECONDS):
            hello = await store.check()
            yield Finding("store", OK, f"MongoDB {hello['version']} at {store.address}")
            await store.open()
    except (VergerError, TimeoutError) as error:
        yield _failed("store", error, hide_password(url), "VERGER_MONGODB_URL")
        return
    mode = f"replica set {hello['setName']}" if "setName" in hello else "sharded cluster"
    yield Finding("replicas", OK, f"{mode}; database {settings.database!r} with its indexes")
    yield _offset(clock)
    yield await _workers(store)


def _offset(clock: StoreClock) -> Finding:
    offset = clock.offset
    size = format_duration(abs(offset))
    if abs(offset) < MUCH_OFFSET:
        return Finding("clock", OK, f"{size} apart from the store's, which decides")
    way = "behind" if offset > timedelta() else "ahead of"
    todo = "schedules follow the store's clock; let NTP set both, or times in logs will not match"
    return Finding("clock", WARN, f"this machine is {size} {way} the store", todo)


async def _broker(settings: Settings, registry: Registry, clock: StoreClock, stack: AsyncExitStack) -> Finding:
    if settings.amqp_url == MEMORY_BROKER:
        if settings.embedded:
            return Finding("broker", OK, "inside the process of verger dev")
        todo = "fine while one process has all roles; else set VERGER_AMQP_URL"
        return Finding("broker", WARN, "memory://: no other process reaches it", todo)
    try:
        broker: Broker = make_broker(settings, clock)
        stack.push_async_callback(broker.close)
        async with asyncio.timeout(LONGEST_CHECK_SECONDS):
            await broker.open(task_types(registry))
            await broker.ping()
    except (VergerError, TimeoutError) as error:
        return _failed("broker", error, hide_password(settings.amqp_url), "VERGER_AMQP_URL")
    where = hide_password(settings.amqp_url)
    return Finding("broker", OK, f"{broker.server or 'a broker'} at {where}; {settings.prefix}.* is declared")


async def _workers(store: Store) -> Finding:
    try:
        alive = await alive_workers(store)
    except VergerError as error:
        return Finding("workers", FAIL, str(error))
    if not alive:
        todo = "start one: verger run, or verger dev"
        return Finding("workers", WARN, f"none was seen in the last {format_duration(SEEN_WITHIN)}", todo)
    versions = ", ".join(sorted({worker.version for worker in alive}))
    running = sum(worker.running for worker in alive)
    return Finding("workers", OK, f"{len(alive)} alive, {running} tasks running, version {versions}")


def _failed(name: str, error: Exception, where: str, variable: str) -> Finding:
    if isinstance(error, TimeoutError):
        return Finding(name, FAIL, f"{where} did not answer in time", f"is it up? It is named in {variable}")
    todo = "" if isinstance(error, ConfigError) else f"start it, or correct {variable}"
    return Finding(name, FAIL, str(error), todo)
