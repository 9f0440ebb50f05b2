"""Each user of docs/permissions.md can do its work, and nothing else, on real servers with TLS and authentication."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from actors.cli.failure import UNREADY
from actors.composition import task_types
from schemas.access import KeyRole
from schemas.task import TaskStatus
from service.access_keys import create_key
from service.broker.names import Names
from service.broker.rabbitmq import RabbitBroker
from service.child_process import ending_with_parent
from service.client import Client, NewTask
from service.clock import SystemClock
from service.errors import BrokerUnavailable, ConfigError, StoreUnavailable
from service.registry import load
from service.schedule_file import read_file
from service.store.mongo import MongoStore
from service.store.port import Retention
from tests.actors.receivers import certificate
from tests.promises.installation import PATIENCE, ROOT, Installation, Process
from tests.security.conftest import Secured
from tests.security.page import certificate_user
from tests.security.servers import ClientCertificate

EXAMPLE = ROOT / "examples" / "schedules.json"
BACKUPS = {"VERGER_ACTORS": "actors.sessions", "VERGER_TYPES": "sessions.backup"}
TYPES = {"secure.work": (), "secure.child": (), "secure.dies": (), "secure.waits": ()}
HANDLERS = "tests.security.handlers"
UNAUTHORIZED = 13
BROKER_USERS = {"data": "worker", "client": "worker"}
"""Users of MongoDB alone, and whose RabbitMQ user goes with them."""


@pytest.fixture
async def installation(secured: Secured, tmp_path: Path) -> AsyncIterator[Installation]:
    made = Installation(secured.mongo.url, secured.rabbit.url, "verger", "verger", tmp_path)
    made.environment["VERGER_ACTORS"] = HANDLERS
    made.environment["VERGER_API_PORT"] = "0"
    try:
        yield made
    finally:
        await made.close()


def as_user(secured: Secured, role: str) -> dict[str, str]:
    broker = BROKER_USERS.get(role, role)
    return {
        "VERGER_MONGODB_URL": secured.mongo.url_of(f"verger-{role}"),
        "VERGER_AMQP_URL": secured.rabbit.url_of(f"verger-{broker}"),
    }


async def verger(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """The command line: its exit code, and all that it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "actors.cli", *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode is not None
    return process.returncode, said


def publish(secured: Secured, task_type: str, **message: Any) -> None:
    channel = secured.rabbit.channel("verger-publisher")
    persistent = pika.BasicProperties(delivery_mode=2)
    channel.basic_publish("verger.tasks", task_type, json.dumps(message).encode(), persistent, mandatory=True)
    channel.connection.close()


async def test_tasks_fires_dead_letters_and_commands_go_through_with_these_users(
    secured: Secured, installation: Installation, tmp_path: Path
) -> None:
    key, kept = create_key("ada", KeyRole.ADMIN)
    started: dict[str, Process] = {}
    for role in ("scheduler", "worker", "api"):
        environment = {**as_user(secured, role), "VERGER_API_KEYS": str(kept)}
        started[role] = await installation.start(role, environment=environment)
    operator = {**installation.environment, **as_user(secured, "operator")}

    def ask(path: str, body: Any = None, method: str | None = None) -> Any:
        (line,) = started["api"].events("api.started")
        request = urllib.request.Request(line["url"] + path, method=method)
        request.add_header("Authorization", f"Bearer {key}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    # A foreign message: retried through a delay queue, saved, and it enqueues another.
    publish(secured, "secure.work", id="foreign")
    done = await installation_task(installation, "foreign", TaskStatus.COMPLETED)
    await installation_task(installation, done["result"]["child"], TaskStatus.COMPLETED)
    # A fire of a schedule that the command line applied.
    file = tmp_path / "schedules.json"
    file.write_text('{"schedules": [{"id": "often", "task_type": "secure.child", "schedule": "@every 1s"}]}')
    code, said = await verger(operator, "schedules", "apply", str(file))
    assert code == 0, said
    fired = {"scheduleId": "often", "status": "completed"}
    await installation.until(lambda: installation.tasks.count_documents(fired) > 0, "a fire that completed")
    await asyncio.to_thread(ask, "/admin/schedules/often/pause", {}, "POST")
    # A dead letter, seen by the observer and replayed over HTTP.
    publish(secured, "secure.dies", id="dead")
    await installation_task(installation, "dead", TaskStatus.FAILED)
    channel = secured.rabbit.channel("verger-observer")

    def letter() -> bool:
        return channel.basic_get("verger.dead-letters", auto_ack=True)[0] is not None

    await installation.until(letter, "the copy of the dead letter")
    channel.connection.close()
    # A message of a type that nobody handles reaches intake.
    publish(secured, "secure.unknown", id="unknown")
    await installation.until(lambda: installation.tasks.find_one({"_id": "unknown"}) is not None, "intake")
    # A cancel that the API tells a worker; a paused type; what is shown.
    publish(secured, "secure.waits", id="waits")
    await installation_task(installation, "waits", TaskStatus.RUNNING)
    await asyncio.to_thread(ask, "/admin/tasks/waits/cancel", {"force": True}, "POST")
    await installation_task(installation, "waits", TaskStatus.CANCELLED)
    for path in ("pause", "resume"):
        await asyncio.to_thread(ask, f"/admin/task-types/secure.child/{path}", {}, "POST")
    for path in ("tasks", "queues", "workers", "jobs", "audit", "dead-letters", "index-state"):
        await asyncio.to_thread(ask, f"/admin/{path}")
    code, said = await verger(operator, "doctor")
    assert code == 0, said
    for command in ("workers", "queues", "audit", "jobs"):
        code, said = await verger(operator, command)
        assert code == 0, said
        assert "p@ss" not in said and "p%40ss" not in said

    for process in installation.processes:
        assert process.alive
        text = process.log_file.read_text()
        assert "denies access" not in text and "ACCESS_REFUSED" not in text
        assert "p@ss" not in text and "p%40ss" not in text
    assert secured.mongo.refused() == []
    assert secured.rabbit.refused() == []


async def installation_task(installation: Installation, task_id: str, status: TaskStatus) -> dict[str, Any]:
    def there() -> bool:
        return (installation.tasks.find_one({"_id": task_id}) or {}).get("status") == status.value

    await installation.until(there, f"{task_id} to be {status.value}")
    found: dict[str, Any] = installation.tasks.find_one({"_id": task_id})
    return found


async def ended(installation: Installation, task_id: str) -> dict[str, Any]:
    """The task when it has finished, however."""

    def finished() -> bool:
        return "finishedAt" in (installation.tasks.find_one({"_id": task_id}) or {})

    await installation.until(finished, f"{task_id} to end")
    found: dict[str, Any] = installation.tasks.find_one({"_id": task_id})
    return found


async def test_events_are_heard_on_the_command_line_and_over_http_with_these_users(
    secured: Secured, installation: Installation
) -> None:
    refused_before = secured.rabbit.refused()
    key, kept = create_key("eve", KeyRole.VIEWER)
    await installation.start("worker", environment=as_user(secured, "worker"))
    api = await installation.start("api", environment={**as_user(secured, "api"), "VERGER_API_KEYS": str(kept)})
    (line,) = api.events("api.started")
    request = urllib.request.Request(line["url"] + "/admin/events?type=task.completed")
    request.add_header("Authorization", f"Bearer {key}")
    tail = await asyncio.create_subprocess_exec(
        *ending_with_parent(sys.executable, "-m", "actors.cli", "events", "tail", "--type", "task.completed"),
        *("--limit", "1", "--json"),
        cwd=ROOT,
        env={**os.environ, **installation.environment, **as_user(secured, "operator")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert tail.stderr is not None
    async with asyncio.timeout(PATIENCE):
        assert b"Listening" in await tail.stderr.readline()
        with await asyncio.to_thread(urllib.request.urlopen, request, timeout=PATIENCE) as stream:
            publish(secured, "secure.child", id="heard")
            streamed = await asyncio.to_thread(first_data, stream)
        printed, _ = await tail.communicate()

    assert (tail.returncode, json.loads(printed)["taskId"]) == (0, "heard")
    assert streamed["taskId"] == "heard"
    assert secured.rabbit.refused() == refused_before


async def test_who_may_not_listen_to_events_is_told_what_to_grant(secured: Secured, installation: Installation) -> None:
    key, kept = create_key("eve", KeyRole.VIEWER)
    api_user = {**as_user(secured, "api"), "VERGER_AMQP_URL": as_user(secured, "worker")["VERGER_AMQP_URL"]}
    api = await installation.start("api", environment={**api_user, "VERGER_API_KEYS": str(kept)})
    (line,) = api.events("api.started")
    request = urllib.request.Request(line["url"] + "/admin/events")
    request.add_header("Authorization", f"Bearer {key}")

    with pytest.raises(urllib.error.HTTPError) as answer:
        await asyncio.to_thread(urllib.request.urlopen, request, timeout=PATIENCE)
    tail = await asyncio.create_subprocess_exec(
        *ending_with_parent(sys.executable, "-m", "actors.cli", "events", "tail"),
        cwd=ROOT,
        env={**os.environ, **installation.environment, **as_user(secured, "worker")},
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, said = await tail.communicate()

    assert answer.value.code == 503
    assert "grant 'verger-worker'" in json.load(answer.value)["detail"]
    assert "grant 'verger-worker'" in " ".join(said.decode().split()), said
    assert tail.returncode == UNREADY
    assert "was lost" not in said.decode()


def first_data(stream: Iterable[bytes]) -> Any:
    """The first of the server-sent events."""
    return next(json.loads(line.removeprefix(b"data:")) for line in stream if line.startswith(b"data:"))


async def test_a_service_enqueues_looks_and_cancels_with_the_client_s_user(
    secured: Secured, installation: Installation
) -> None:
    refused_before = (secured.mongo.refused(), secured.rabbit.refused())
    await installation.start("worker", environment=as_user(secured, "worker"))
    urls = as_user(secured, "client")
    registry = load([HANDLERS])
    async with AsyncExitStack() as stack:
        store = MongoStore(urls["VERGER_MONGODB_URL"], "verger")
        stack.push_async_callback(store.close)
        await store.open()
        broker = RabbitBroker(urls["VERGER_AMQP_URL"], Names("verger"), store.clock)
        stack.push_async_callback(broker.close)
        await broker.open(task_types(registry))
        client = Client(store, broker, registry)

        one = await client.enqueue("secure.child", id="served")
        again = await client.enqueue("secure.child", id="served")
        many = await client.enqueue_many([NewTask("secure.child"), NewTask("secure.child", name="single")])
        done = [await client.wait(task.id) for task in (one, *many)]
        later = await client.enqueue("secure.child", name="once", delay="1h")
        same = await client.enqueue("secure.child", name="once")
        never = await client.cancel(later.id)
        running = await client.enqueue("secure.waits")
        await installation_task(installation, running.id, TaskStatus.RUNNING)
        await client.cancel(running.id, force=True)
        stopped = await client.wait(running.id)
        found = await client.get("served")

    assert again.id == one.id == found.id
    assert {task.status for task in done} == {TaskStatus.COMPLETED}
    assert same.id == later.id
    assert (never.status, stopped.status) == (TaskStatus.CANCELLED, TaskStatus.CANCELLED)
    assert (secured.mongo.refused(), secured.rabbit.refused()) == refused_before


STATE = ("tasks", "schedules", "revisions", "task_types", "workers", "audit")


@pytest.fixture
def filled(secured: Secured) -> Iterator[None]:
    """A document in each collection of the state database, and all kinds of collections in the memory database."""
    with secured.mongo.as_user("root") as root:
        kept = [root["verger"][name] for name in STATE if name != "tasks"]  # the backup is a task itself
        for collection in kept:
            collection.insert_one({"_id": "a stranger"})
        memory = root["memory"]
        memory["memories"].create_index("tenant")
        memory["memories"].insert_one({"tenant": "ada"})
        memory.create_collection("of_ada", viewOn="memories", pipeline=[{"$match": {"tenant": "ada"}}])
        memory.create_collection("measured", timeseries={"timeField": "at"})
        memory["measured"].insert_one({"at": datetime.now(UTC)})
        yield
        for collection in kept:
            collection.delete_one({"_id": "a stranger"})
        root.drop_database("memory")


async def test_the_nightly_backup_goes_through_with_the_user_of_the_data_pool(
    secured: Secured, installation: Installation, filled: None
) -> None:
    refused_before = secured.mongo.refused()
    (shipped,) = [each for each in read_file(EXAMPLE.read_bytes()).schedules if each.task_type == "sessions.backup"]
    await installation.start("worker", environment={**as_user(secured, "data"), **BACKUPS})

    publish(secured, "sessions.backup", id="nightly", taskBody=shipped.args)
    task = await ended(installation, "nightly")

    assert (task["status"], task.get("lastError")) == ("completed", None)
    (manifest,) = [json.loads(path.read_text()) for path in installation.folder.glob("backups/*/manifest.json")]
    held = {
        (database["name"], each["name"])
        for database in manifest["databases"]
        for each in database["collections"]
        if each["documents"]
    }
    assert held >= {*(("verger", name) for name in STATE), ("memory", "memories"), ("memory", "measured")}
    assert {database["snapshot"]["mode"] for database in manifest["databases"]} == {"snapshot"}
    assert secured.mongo.refused() == refused_before


async def test_the_nightly_backup_is_refused_to_the_user_of_the_other_workers(
    secured: Secured, installation: Installation, filled: None
) -> None:
    await installation.start("worker", environment={**as_user(secured, "worker"), **BACKUPS})

    publish(secured, "sessions.backup", id="refused")
    task = await ended(installation, "refused")

    assert task["status"] == "failed"
    assert "database verger: not authorized" in task["lastError"]["message"]


# ---- what each user is refused ---------------------------------------------------------------------------------------

PERSISTENT = pika.BasicProperties(delivery_mode=2)


@pytest.fixture
async def declared(secured: Secured) -> None:
    """The topology is there, made by the worker's user."""
    broker = RabbitBroker(secured.rabbit.url_of("verger-worker"), Names("verger"), SystemClock())
    await broker.open(TYPES)
    await broker.close()


TRIES: dict[str, Callable[[BlockingChannel], object]] = {
    "consume tasks": lambda channel: channel.basic_get("verger.tasks.secure.work"),
    "consume intake": lambda channel: channel.basic_get("verger.intake"),
    "consume dead letters": lambda channel: channel.basic_get("verger.dead-letters"),
    "purge tasks": lambda channel: channel.queue_purge("verger.tasks.secure.work"),
    "delete tasks": lambda channel: channel.queue_delete("verger.tasks.secure.work"),
    "delete the exchange": lambda channel: channel.exchange_delete("verger.tasks"),
    "declare a queue": lambda channel: channel.queue_declare("verger.tasks.other"),
    "declare another's queue": lambda channel: channel.queue_declare("shop.orders"),
    "listen to tasks": lambda channel: listen(channel, "verger.tasks", "secure.work"),
    "listen to events": lambda channel: listen(channel, "verger.events", "#"),
    "listen to control messages": lambda channel: listen(channel, "verger.control", ""),
    "send a task": lambda channel: channel.basic_publish("verger.tasks", "secure.child", b"{}", PERSISTENT),
    "send past the exchange": lambda channel: channel.basic_publish("", "verger.tasks.secure.work", b"{}", PERSISTENT),
    "send a dead letter": lambda channel: channel.basic_publish("verger.dead", "secure.work", b"{}"),
    "send an event": lambda channel: channel.basic_publish("verger.events", "task.failed", b"{}"),
    "send a control message": lambda channel: channel.basic_publish("verger.control", "", b"{}"),
    "send to intake": lambda channel: channel.basic_publish("verger.intake", "", b"{}", PERSISTENT),
    "send to a delay": lambda channel: channel.basic_publish("verger.delay.1s", "secure.work", b"{}", PERSISTENT),
}


def listen(channel: BlockingChannel, exchange: str, key: str) -> None:
    channel.queue_declare("observer.mine", exclusive=True)
    channel.queue_bind("observer.mine", exchange, key)


@pytest.mark.parametrize(
    ("user", "may"),
    [
        ("verger-publisher", {"send a task"}),
        ("verger-observer", {"consume dead letters", "listen to events"}),
    ],
)
async def test_a_publisher_only_sends_tasks_and_an_observer_only_listens(
    secured: Secured, declared: None, user: str, may: set[str]
) -> None:
    assert {what for what, trial in TRIES.items() if not refused(secured, user, trial)} == may


@pytest.mark.parametrize("user", ["verger-scheduler", "verger-worker", "verger-api", "verger-operator"])
async def test_verger_s_own_processes_touch_nothing_that_is_not_verger_s(
    secured: Secured, declared: None, user: str
) -> None:
    never = ("consume dead letters", "declare another's queue", "send past the exchange")

    assert [what for what in never if not refused(secured, user, TRIES[what])] == []


@pytest.mark.parametrize("user", ["verger-scheduler", "verger-worker"])
async def test_workers_and_schedulers_do_not_listen_to_events(secured: Secured, declared: None, user: str) -> None:
    def own(channel: BlockingChannel) -> object:
        return channel.queue_declare("verger.events.mine", exclusive=True)

    def through_another(channel: BlockingChannel) -> None:
        channel.queue_declare("verger.control.mine", exclusive=True)
        channel.queue_bind("verger.control.mine", "verger.events", "#")

    assert refused(secured, user, own) and refused(secured, user, through_another)


def refused(secured: Secured, user: str, trial: Callable[[BlockingChannel], object]) -> bool:
    channel = secured.rabbit.channel(user)
    try:
        trial(channel)
    except ChannelClosedByBroker as error:
        if error.reply_code != 403:
            raise
        return True
    finally:
        channel.connection.close()
    return False


async def test_a_publisher_with_an_exchange_of_its_own_reaches_the_types_that_are_bound(
    secured: Secured, declared: None
) -> None:
    await secured.rabbit.ctl("set_permissions", "-p", "verger", "guest", ".*", ".*", ".*")
    owner = secured.rabbit.channel("guest")
    owner.exchange_declare("shop.tasks", "direct", durable=True)
    owner.exchange_bind("verger.tasks", "shop.tasks", "secure.child")
    await secured.rabbit.ctl("set_permissions", "-p", "verger", "verger-publisher", "^$", r"^shop\.tasks$", "^$")
    try:
        channel = secured.rabbit.channel("verger-publisher")
        channel.basic_publish("shop.tasks", "secure.child", b"{}", PERSISTENT, mandatory=True)
        with pytest.raises(pika.exceptions.UnroutableError):
            channel.basic_publish("shop.tasks", "verger.replay", b"{}", PERSISTENT, mandatory=True)
        channel.connection.close()
        assert refused(secured, "verger-publisher", TRIES["send a task"])
    finally:
        own = r"^verger\.tasks$"
        await secured.rabbit.ctl("set_permissions", "-p", "verger", "verger-publisher", "^$", own, "^$")
        owner.exchange_delete("shop.tasks")
        owner.queue_purge("verger.tasks.secure.child")
        owner.connection.close()


Collections = Database[dict[str, Any]]

WRITES: dict[str, Callable[[Collection[dict[str, Any]]], object]] = {
    "find": lambda collection: collection.find_one({}),
    "insert": lambda collection: collection.insert_one({"_id": "a stranger"}),
    "update": lambda collection: collection.update_one({"_id": "no one"}, {"$set": {"a": 1}}),
    "remove": lambda collection: collection.delete_one({"_id": "a stranger"}),
}
EVERYTHING = set(WRITES)
MEMORY = {"verger-worker", "verger-data"}
"""Who works on the memory service's data."""


@pytest.mark.parametrize(
    ("user", "may"),
    [
        (
            "verger-scheduler",
            {
                "tasks": EVERYTHING,
                "schedules": {"find", "update"},
                "task_types": {"find", "insert", "update"},
                "workers": {"find", "remove"},
                "audit": {"find", "remove"},
            },
        ),
        (
            "verger-worker",
            {
                "tasks": {"find", "insert", "update"},
                "schedules": {"update"},
                "task_types": {"find", "insert", "update"},
                "workers": EVERYTHING,
            },
        ),
        (
            "verger-data",
            {
                "tasks": {"find", "insert", "update"},
                "schedules": {"find", "update"},
                "revisions": {"find"},
                "task_types": {"find", "insert", "update"},
                "workers": EVERYTHING,
                "audit": {"find"},
                "strange": {"find"},
            },
        ),
        (
            "verger-operator",
            {
                "tasks": {"find", "insert", "update"},
                "schedules": EVERYTHING,
                "revisions": {"find", "insert", "update"},
                "task_types": {"find", "insert", "update"},
                "workers": {"find"},
                "audit": {"find"},
            },
        ),
        (
            "verger-api",
            {
                "tasks": {"find", "insert", "update"},
                "schedules": EVERYTHING,
                "revisions": {"find", "insert", "update"},
                "task_types": {"find", "insert", "update"},
                "workers": {"find"},
                "audit": {"find", "insert"},
            },
        ),
        ("verger-client", {"tasks": {"find", "insert", "update"}}),
    ],
)
def test_each_user_of_mongodb_may_what_the_page_says_and_no_more(
    secured: Secured, user: str, may: dict[str, set[str]]
) -> None:
    collections = (*STATE, "strange")
    with secured.mongo.as_user(user) as client, secured.mongo.as_user("root") as root:
        for name in collections:
            allowed = {what for what, write in WRITES.items() if not denied(partial(write, client["verger"][name]))}
            root["verger"][name].delete_one({"_id": "a stranger"})
            assert allowed == may.get(name, set()), name
        assert denied(client["verger"]["tasks"].drop)
        assert denied(lambda: client["other"]["things"].find_one({}))
        assert denied(lambda: client["memory"]["memories"].find_one({})) == (user not in MEMORY)
        assert denied(lambda: client["memory"]["index_state"].find_one({})) == (user not in {*MEMORY, "verger-api"})
        assert denied(lambda: client["admin"]["system.users"].find_one({}))
        assert denied(lambda: client.admin.command({"grantRolesToUser": user, "roles": ["root"]}))


def denied(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        return True
    return False


async def test_a_scheduler_s_user_may_prune_all_that_is_old(secured: Secured) -> None:
    old = datetime.now(UTC) - timedelta(days=365)
    with secured.mongo.as_user("root") as root:
        task = {"taskType": "secure.child", "taskBody": {}, "status": "completed", "createdAt": old, "finishedAt": old}
        root["verger"]["tasks"].insert_one({"_id": "old", **task})
        root["verger"]["workers"].insert_one({"_id": "old", "seenAt": old})
        root["verger"]["audit"].insert_one({"_id": "000000000000-old"})
    store = MongoStore(secured.mongo.url_of("verger-scheduler"), "verger")
    try:
        await store.open()
        day = timedelta(days=1)
        pruned = await store.upkeep.prune(Retention(day, day, day, 100), store.clock.now(), 100)
        workers = await store.workers.prune(store.clock.now() - day)
        audit = await store.audit.prune(store.clock.now() - day, 100)
        marked = await store.upkeep.take_marker("secure.child", store.clock.now())
    finally:
        await store.close()

    assert (pruned["completed"], workers, audit, marked) == (1, 1, 1, True)


# ---- TLS -------------------------------------------------------------------------------------------------------------


async def test_a_server_that_another_authority_vouches_for_is_refused(secured: Secured, tmp_path: Path) -> None:
    other, _ = certificate(tmp_path, "localhost")
    broker = RabbitBroker(secured.rabbit.url_of("verger-worker", other), Names("verger"), SystemClock())
    store = MongoStore(secured.mongo.url_of("verger-worker", tlsCAFile=str(other)), "verger")

    with pytest.raises((BrokerUnavailable, ConfigError), match="certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
        await broker.open(TYPES)
    with pytest.raises((StoreUnavailable, ConfigError), match="certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
        await store.open()
    await store.close()


async def test_a_server_under_another_name_is_refused(secured: Secured) -> None:
    broker = RabbitBroker(
        secured.rabbit.url_of("verger-worker").replace("localhost", "127.0.0.1"), Names("verger"), SystemClock()
    )
    store = MongoStore(
        secured.mongo.url_of("verger-worker", directConnection="true").replace("localhost", "127.0.0.1"), "verger"
    )

    with pytest.raises((BrokerUnavailable, ConfigError), match="127.0.0.1"):
        await broker.open(TYPES)
    with pytest.raises((StoreUnavailable, ConfigError), match="127.0.0.1"):
        await store.open()
    await store.close()


async def test_a_client_certificate_is_shown_to_both_servers(secured: Secured, tmp_path: Path) -> None:
    for_mongo = ClientCertificate(tmp_path / "mongo", "verger-worker", secured.mongo.authority)
    for_rabbit = ClientCertificate(tmp_path / "rabbit", "verger-worker", secured.rabbit.authority)
    with secured.mongo.as_user("root") as root:
        database, command = certificate_user()
        root[database].command({**command, "createUser": for_mongo.subject})
    store = MongoStore(secured.mongo.url_with_certificate(tlsCertificateKeyFile=str(for_mongo.both)), "verger")
    bare = MongoStore(secured.mongo.url_with_certificate(), "verger")
    amqp_url = secured.rabbit.url_of("verger-worker", certfile=str(for_rabbit.file), keyfile=str(for_rabbit.key))
    broker = RabbitBroker(amqp_url, Names("verger"), SystemClock())
    try:
        await store.open()
        assert await store.tasks.get("no such") is None
        with pytest.raises(ConfigError, match="denies access"):
            await bare.open()
        await broker.open(TYPES)
        subjects = await secured.rabbit.ctl("list_connections", "peer_cert_subject")
    finally:
        await store.close()
        await bare.close()
        await broker.close()

    assert for_rabbit.subject in subjects


async def test_a_wrong_password_is_told_without_showing_it(secured: Secured) -> None:
    right = "a%20p%40ss%3Aw%2Frd%3F"
    broker = RabbitBroker(
        secured.rabbit.url_of("verger-worker").replace(right, "geheim"), Names("verger"), SystemClock()
    )
    store = MongoStore(secured.mongo.url_of("verger-worker").replace(right, "geheim"), "verger")

    with pytest.raises(ConfigError, match="refuses the user 'verger-worker'") as broker_says:
        await broker.open(TYPES)
    with pytest.raises(ConfigError, match="denies access") as store_says:
        await store.open()
    await store.close()

    assert "geheim" not in f"{broker_says.value} {store_says.value}"
