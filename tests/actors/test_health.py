"""Probes: what says that a process lives and is ready, and what says that it is not; on real servers."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from actors import health, health_server
from actors.composition import App, Role
from actors.health import Contact, Health
from service.errors import BrokerUnavailable, ConfigError
from service.metrics import Metrics
from service.settings import Settings
from tests.actors.probing import Probed, probed, problems_of
from tests.servers import MongoServer, RabbitServer

SECONDS = 60.0
Start = Callable[..., Awaitable[Probed]]


@pytest.fixture
async def start(mongo_url: str, amqp_url: str, database: str, prefix: str) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(*roles: Role) -> Probed:
            return await stack.enter_async_context(probed(mongo_url, amqp_url, database, prefix, roles))

        yield begin


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of a server counts for half a second."""
    monkeypatch.setattr(health, "FRESH_SECONDS", 0.5)
    monkeypatch.setattr(health, "ASK_SECONDS", 0.1)


async def until(question: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so: a probe sends no event."""
    async with asyncio.timeout(SECONDS):
        while not await question():
            await asyncio.sleep(0.05)


async def ready(one: Probed) -> None:
    async def asked() -> bool:
        return await one.status("/readyz") == 200

    await until(asked)


@pytest.mark.parametrize("role", [Role.SCHEDULER, Role.WORKER, Role.API])
async def test_each_role_answers_on_the_small_port(start: Start, role: Role) -> None:
    one = await start(role)
    await ready(one)

    assert (await one.http.get("/healthz")).json() == {"status": "ok"}
    assert (await one.http.head("/readyz")).status_code == 200
    page = await one.http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'roles="{role.value}"' in page.text
    unknown = await one.http.get("/admin/tasks")
    assert (unknown.status_code, unknown.json()["paths"]) == (404, ["/healthz", "/readyz", "/metrics"])


async def test_a_broker_that_is_silently_dead_makes_a_worker_unready_but_not_dead(
    start: Start, rabbit_server: RabbitServer, impatient: None
) -> None:
    one = await start(Role.WORKER)
    await ready(one)

    rabbit_server.freeze()  # the connections stay, and nothing comes

    async def unready() -> bool:
        return "broker" in await one.problems()

    await until(unready)
    said = await one.problems()
    assert said["broker"].startswith("no answer for ")
    assert "guest:guest" not in str(said)
    assert await one.status("/healthz") == 200
    begun = time.monotonic()
    await one.http.get("/readyz")
    assert time.monotonic() - begun < 5  # at once, but for a busy machine: it asks nobody
    rabbit_server.thaw()
    await ready(one)


async def test_a_store_that_is_silently_dead_makes_a_scheduler_unready_but_not_dead(
    start: Start, mongo_server: MongoServer, impatient: None
) -> None:
    one = await start(Role.SCHEDULER)
    await ready(one)

    mongo_server.freeze()

    async def unready() -> bool:
        return "store" in await one.problems()

    await until(unready)
    assert await one.status("/healthz") == 200
    mongo_server.thaw()
    await ready(one)


async def test_a_worker_that_the_broker_does_not_feed_is_not_ready_and_says_which_types(
    start: Start, rabbit_server: RabbitServer
) -> None:
    one = await start(Role.WORKER)
    await ready(one)
    await one.app.client.set_paused("test.noop", True)

    async def paused() -> bool:
        worker = one.app.worker
        return worker is not None and worker.handlers["test.noop"]._consumer is None

    await until(paused)
    assert await one.status("/readyz") == 200  # it is not to be fed

    rabbit_server.kill()

    async def deaf() -> bool:
        return "tasks of type test.work" in await one.problems()

    await until(deaf)
    said = await one.problems()
    assert "tasks of type test.noop" not in said
    assert said["tasks of type test.work"] == "the broker does not feed its consumer"


async def test_a_process_that_drains_is_not_ready_but_alive_until_its_end(start: Start) -> None:
    one = await start(Role.WORKER)
    await ready(one)
    task = await one.app.client.enqueue("test.work", {"seconds": 2})

    async def runs() -> bool:
        return bool(one.app.worker and task.id in one.app.worker.runs)

    await until(runs)
    stopping = asyncio.create_task(one.app.stop())
    await asyncio.sleep(0)

    assert (await one.problems())["process"] == "it is draining"
    assert await one.status("/healthz") == 200
    await stopping
    with pytest.raises(httpx.ConnectError):
        await one.http.get("/healthz")


async def test_a_blocked_event_loop_is_said_by_the_port_itself(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"PULSE_SECONDS": 0.1, "BLOCKED_SECONDS": 1.0, "LATE_SECONDS": 0.5}.items():
        monkeypatch.setattr(health, name, seconds)
    monkeypatch.setattr(health_server, "LOOP_SECONDS", 0.5)
    one = await start(Role.WORKER)
    await ready(one)
    url = str(one.http.base_url)

    def ask_later() -> list[httpx.Response]:
        time.sleep(2)
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as http:
            return [http.get(path) for path in ("/healthz", "/readyz", "/metrics")]

    asking = asyncio.create_task(asyncio.to_thread(ask_later))
    await asyncio.sleep(0.3)
    time.sleep(4)

    live, readiness, page = await asking
    assert "has not turned" in problems_of(live)["loop"]
    assert "does not turn" in problems_of(readiness)["loop"]
    assert page.status_code == 503
    assert await one.status("/healthz") == 200  # it turns again

    async def measured() -> bool:
        return 'verger_loop_lag_seconds_bucket{le="2.5"}' in (page := (await one.http.get("/metrics")).text) and (
            'verger_loop_lag_seconds_bucket{le="0.5"} ' in page
        )

    await until(measured)
    assert one.app.metrics.loop_lag.values[()][-1] > 2


async def test_however_many_ask_the_servers_are_asked_once() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)

    one = Health(Metrics())
    one.state = None
    one.contacts = [Contact("broker", ask)]

    answers = await asyncio.gather(*(one.ready() for _ in range(100)))
    await one.ready()

    assert answers == [[]] * 100
    assert asked == 1


async def test_an_error_is_named_and_an_old_answer_counts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ASK_SECONDS", 0.0)
    fails = False

    async def ask() -> None:
        if fails:
            raise BrokerUnavailable("amqp://mq/ is not connected")

    contact = Contact("broker", ask)
    assert await contact.problem() is None
    fails = True
    assert await contact.problem() is None

    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)

    problem = await contact.problem()
    assert problem is not None
    assert problem.problem.endswith("amqp://mq/ is not connected")


async def test_a_port_that_is_taken_ends_the_start_with_the_name_of_the_setting(
    mongo_url: str, amqp_url: str, database: str, prefix: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(
            mongodb_url=mongo_url,
            amqp_url=amqp_url,
            database=database,
            prefix=prefix,
            actors=("tests.handlers",),
            health_host="127.0.0.1",
            health_port=taken.getsockname()[1],
        )
        app = App(settings, [Role.WORKER])
        with pytest.raises(ConfigError, match="VERGER_HEALTH_PORT"):
            await app.start()
        await app.stop()


async def test_a_process_whose_servers_are_away_answers_that_it_is_starting(
    mongo_url: str, database: str, prefix: str, rabbit_server: RabbitServer
) -> None:
    settings = Settings(
        mongodb_url=mongo_url,
        amqp_url="amqp://guest:guest@127.0.0.1:1/",
        database=database,
        prefix=prefix,
        actors=("tests.handlers",),
        health_host="127.0.0.1",
        health_port=0,
    )
    app = App(settings, [Role.WORKER])
    starting = asyncio.create_task(app.start())
    async with asyncio.timeout(SECONDS):
        while app.health_server is None:
            await asyncio.sleep(0.02)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{app.health_server.port}", trust_env=False) as http:
        assert (await http.get("/healthz")).status_code == 200
        said = problems_of(await http.get("/readyz"))
    assert said["process"] == "it is starting"
    assert "127.0.0.1:1" in said["broker"]
    starting.cancel()
    await asyncio.wait((starting,))
    await app.stop()


async def test_clients_that_do_not_ask_make_way_for_those_that_do(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_server, "MOST", 8)
    monkeypatch.setattr(health_server._Request, "timeout", 600)
    one = await start(Role.SCHEDULER)
    assert one.app.health_server is not None
    before = threading.active_count()
    streams = [await asyncio.open_connection("127.0.0.1", one.app.health_server.port) for _ in range(60)]
    for _, writer in streams[::2]:
        writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")

    assert (await one.http.get("/healthz")).status_code == 200

    async def few() -> bool:
        return threading.active_count() <= before + 20  # the pools of others may grow

    await until(few)
    for _, writer in streams:
        writer.close()
