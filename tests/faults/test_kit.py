"""The kit itself: it sees what must not be, and its proxy does what it says."""

import asyncio
import platform
import random
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faults.kit import ledger
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import Findings, check, check_fires, follow, look
from tests.faults.kit.oplog import State
from tests.faults.kit.page import page
from tests.faults.kit.proxy import Proxy, Toxic
from tests.faults.kit.record import RECORDS, RUN, Recorder, Result, read

PENDING = State("pending", 0, 0, 3, None, again=False)
FIRST = State("running", 1, 1, 3, "a", again=False)
SECOND = State("running", 2, 2, 3, "b", again=False)
BETWEEN = State("pending", 1, 1, 3, "a", again=False)
DONE = State("completed", 1, 1, 3, "a", again=False)
AGAIN_DONE = State("completed", 2, 2, 3, "b", again=False)


def findings(*states: State, may_rise: bool = False) -> Findings:
    found = Findings()
    follow(found, "task", states, may_rise)
    return found


@pytest.mark.parametrize(
    "states",
    [
        [PENDING, FIRST, DONE],
        [FIRST, DONE],
        [PENDING, FIRST, BETWEEN, SECOND],
        [PENDING, State("cancelled", 0, 0, 3, None, again=False)],
    ],
)
def test_an_orderly_life_is_clean(states: list[State]) -> None:
    assert findings(*states).clean


def test_a_claim_of_what_is_claimed_is_found() -> None:
    assert findings(PENDING, FIRST, SECOND).doubled == ["task"]


def test_a_second_end_is_found() -> None:
    late = State("failed", 1, 1, 3, "a", again=False)
    assert findings(PENDING, FIRST, DONE, late).doubled == ["task"]


def test_a_rise_from_an_end_is_found_unless_it_was_asked_for() -> None:
    assert findings(FIRST, DONE, BETWEEN).broken
    assert findings(FIRST, DONE, BETWEEN, may_rise=True).clean


def test_a_fence_that_does_not_count_the_claim_is_found() -> None:
    assert findings(PENDING, State("running", 0, 1, 3, "a", again=False)).broken


def test_an_attempt_above_the_ceiling_is_found() -> None:
    assert findings(PENDING, State("running", 1, 4, 3, "a", again=False)).broken


class Aftermath:
    """What a run of a fleet left behind, made up: stands for the fleet, its oplog and its collection of tasks."""

    def __init__(self, file: Path) -> None:
        self.oplog = self.tasks = self
        self.ledger = ledger.Ledger(file)
        self.states: dict[str, list[State]] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def stored(self, task_id: str, *states: State, result: Mapping[str, Any] | None = None) -> None:
        self.states[task_id] = list(states)
        if states[-1].status == "completed":
            self.results[task_id] = {"_id": task_id, "fence": states[-1].fence, "result": result}

    def ran(self, task_id: str, fence: int, *whats: str) -> None:
        for what in whats or ("start", "effect", "end"):
            ledger.write(what, task_id, fence)

    def fired(self, *instants: datetime) -> None:
        for instant in instants:
            self.stored(f"fire:each@{instant.isoformat().replace('+00:00', 'Z')}", PENDING)

    @property
    def fleet(self) -> Fleet:
        return cast("Fleet", self)

    def read(self) -> "Aftermath":
        return self

    def find(self, *_: object) -> list[dict[str, Any]]:
        return list(self.results.values())

    def describe(self) -> str:
        return "made up"

    async def ended(self, ids: set[str], seconds: float) -> None:
        assert ids <= set(self.results)


@pytest.fixture
def aftermath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aftermath:
    """One task that a second claim completed, as it should be."""
    made = Aftermath(tmp_path / "ledger.jsonl")
    monkeypatch.setenv(ledger.LEDGER, str(made.ledger.path))
    made.stored("task", PENDING, FIRST, BETWEEN, SECOND, AGAIN_DONE, result={"fence": 2})
    made.ran("task", 1, "start")
    made.ran("task", 2)
    return made


async def test_an_orderly_aftermath_is_clean(aftermath: Aftermath) -> None:
    assert look(aftermath.fleet, ["task"]).clean
    assert (await check(aftermath.fleet, ["task"], sentinel=False)).tasks == 1


async def test_a_task_without_a_record_is_lost(aftermath: Aftermath) -> None:
    assert look(aftermath.fleet, ["task", "gone"]).lost == ["gone"]
    with pytest.raises(AssertionError, match="gone"):
        await check(aftermath.fleet, ["task", "gone"], sentinel=False)


@pytest.mark.parametrize("states", [[PENDING], [PENDING, FIRST], [PENDING, FIRST, BETWEEN]])
async def test_a_task_that_has_not_ended_is_lost(aftermath: Aftermath, states: list[State]) -> None:
    aftermath.stored("open", *states)

    assert look(aftermath.fleet, ["task", "open"]).lost == ["open"]
    with pytest.raises(AssertionError, match="open"):
        await check(aftermath.fleet, ["task", "open"], sentinel=False)


@pytest.mark.parametrize("result", [{"fence": 1}, {}, None])
def test_a_result_of_an_older_claim_is_found(aftermath: Aftermath, result: dict[str, Any] | None) -> None:
    aftermath.stored("task", PENDING, FIRST, BETWEEN, SECOND, AGAIN_DONE, result=result)

    [broken] = look(aftermath.fleet, ["task"]).broken
    assert "was accepted, not of 2" in broken


def test_a_completed_task_whose_last_claim_did_nothing_is_found(aftermath: Aftermath) -> None:
    aftermath.stored("idle", PENDING, FIRST, BETWEEN, SECOND, AGAIN_DONE, result={"fence": 2})
    aftermath.ran("idle", 1)
    aftermath.ran("idle", 2, "start")

    [broken] = look(aftermath.fleet, ["idle"]).broken
    assert "the run of fence 2 did nothing" in broken


def test_a_claim_that_ran_twice_is_found(aftermath: Aftermath) -> None:
    aftermath.ran("task", 2)

    assert look(aftermath.fleet, ["task"]).doubled == ["task"]


def test_a_wrong_life_is_found_though_nobody_knows_the_task(aftermath: Aftermath) -> None:
    aftermath.stored("stray", PENDING, FIRST, SECOND)
    aftermath.stored("risen", PENDING, FIRST, DONE, BETWEEN)

    findings = look(aftermath.fleet, ["task"])
    assert findings.doubled == ["stray"]
    assert len(findings.broken) == 1 and "without a replay" in findings.broken[0]
    assert not look(aftermath.fleet, ["task"], replayed=["risen"]).broken


START, EVERY = datetime(2030, 1, 1, 12, 0, 58, tzinfo=UTC), timedelta(seconds=1)


def test_a_fire_of_each_instant_is_in_order_whatever_comes_later(aftermath: Aftermath) -> None:
    aftermath.fired(*(START + number * EVERY for number in (0, 1, 2, 3, 7)))

    check_fires(aftermath.fleet, "each", START, EVERY, 3)


@pytest.mark.parametrize("missed", [0, 1, 2])
def test_a_missed_fire_is_found(aftermath: Aftermath, missed: int) -> None:
    aftermath.fired(*(START + number * EVERY for number in range(3) if number != missed))

    with pytest.raises(AssertionError, match="missed"):
        check_fires(aftermath.fleet, "each", START, EVERY, 3)


@pytest.mark.parametrize("beside", [-1.0, 0.001, 0.5, 2.999])
def test_a_second_fire_of_an_instant_is_found(aftermath: Aftermath, beside: float) -> None:
    aftermath.fired(*(START + number * EVERY for number in range(4)), START + beside * EVERY)

    with pytest.raises(AssertionError, match="fired besides"):
        check_fires(aftermath.fleet, "each", START, EVERY, 3)


def test_a_fire_that_ran_twice_is_found(aftermath: Aftermath) -> None:
    aftermath.stored("fire:each@2030-01-01T12:00:58Z", PENDING, FIRST, DONE, result={"fence": 1})
    aftermath.ran("fire:each@2030-01-01T12:00:58Z", 1)
    assert look(aftermath.fleet, []).clean

    aftermath.ran("fire:each@2030-01-01T12:00:58Z", 1)
    assert look(aftermath.fleet, []).doubled == ["fire:each@2030-01-01T12:00:58Z"]


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that says what it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_the_proxy_delays_slices_holds_and_resets(echo: int) -> None:
    with Proxy(echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        loop = asyncio.get_running_loop()

        proxy.set(Toxic(latency=0.2, slice=3))
        asked = loop.time()
        writer.write(b"0123456789")
        async with asyncio.timeout(60):
            assert await reader.readexactly(10) == b"0123456789"
        assert loop.time() - asked >= 0.4
        assert proxy.counts["sliced"] >= 1

        proxy.partition()
        writer.write(b"later")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.readexactly(5)
        assert proxy.counts["held"] == 1
        proxy.clear()
        async with asyncio.timeout(60):
            assert await reader.readexactly(5) == b"later"

        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


async def test_the_proxy_lets_no_more_bytes_through_than_the_bandwidth(echo: int) -> None:
    with Proxy(echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        loop = asyncio.get_running_loop()

        proxy.up = Toxic(slice=10, bandwidth=100)
        asked = loop.time()
        writer.write(b"x" * 40)
        async with asyncio.timeout(60):
            await reader.readexactly(40)
        assert loop.time() - asked >= 0.3  # the last slice goes after those before it have taken their time
        writer.close()


async def test_the_proxy_delays_by_chance_and_keeps_the_order(echo: int) -> None:
    sent = bytes(range(20))
    with Proxy(echo, seed=5) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        loop = asyncio.get_running_loop()

        proxy.up = Toxic(jitter=0.3)
        asked = loop.time()
        for each in sent:
            writer.write(bytes([each]))
            await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            assert await reader.readexactly(len(sent)) == sent
        assert loop.time() - asked >= random.Random(5).uniform(0, 0.3)  # what the first waited, and all behind it
        assert proxy.counts["delayed"] >= 1
        writer.close()


@pytest.mark.parametrize("deaf", ["up", "down"])
async def test_the_proxy_holds_one_direction_alone(echo: int, deaf: str) -> None:
    with Proxy(echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        setattr(proxy, deaf, Toxic(black_hole=True))
        writer.write(b"hello")
        await until(lambda: proxy.counts["held"] == 1)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.readexactly(5)
        assert (proxy.counts["up"], proxy.counts["down"]) == (5 if deaf == "down" else 0, 0)
        proxy.clear()
        async with asyncio.timeout(60):
            assert await reader.readexactly(5) == b"hello"
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


VERSIONS = {"RabbitMQ": "4.0.5", "MongoDB": "6.0.16"}


def test_the_page_sums_up_what_was_recorded() -> None:
    results = [
        Result("Broker", "a | b", "all went on", "seen", seconds, 10, 0, 0, 7, "now", VERSIONS)
        for seconds in (1.0, 2.0, 9.0)
    ]

    said = page(results)

    assert "**1 faults, 3 results, 30 tasks: 0 lost, 0 accepted twice.**" in said
    assert "| a / b (seed 7) | 4.0.5 | all went on | seen | p50 2.0 s, max 9.0 s | 30 | 0 | 0 |" in said


def test_the_page_counts_soaks_apart_and_what_is_wrong_everywhere() -> None:
    results = [
        Result("Broker", "a", "all went on", "seen", None, 10, 1, 0),
        Result("Soak", "b", "all went on", "seen", 1.0, 2000, 0, 2),
        Result("Soak", "c", "all went on", "seen", 1.0, 1000, 1, 0),
    ]

    said = page(results)

    assert "**1 faults, 1 results, 10 tasks; 2 soaks, 3,000 tasks: 2 lost, 2 accepted twice.**" in said
    assert "\n2 soaks; recovery" in said


def test_the_page_says_which_versions_ran_when() -> None:
    runs = ["2030-01-02T10:00:00+00:00", "2030-01-01T23:00:00+00:00", "2030-01-02T11:00:00+00:00"]
    results = [Result("Broker", "a", "", "", None, 1, 0, 0, None, run, VERSIONS) for run in runs]
    results.append(Result("Broker", "b", "", "", None, 1, 0, 0, None, "", {"RabbitMQ": "3.10.8", "Python": "3.11.7"}))

    said = page(results)

    assert "\n- RabbitMQ 3.10.8, Python 3.11.7\n" in said
    assert "\n- RabbitMQ 4.0.5, MongoDB 6.0.16: 2030-01-01, 2030-01-02\n" in said


def test_a_record_tells_the_versions_of_the_servers_and_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RECORDS, str(tmp_path / "records.jsonl"))
    monkeypatch.setenv(RUN, "now")

    Recorder(VERSIONS)("Broker", "a", happened="all went on", bite="seen", findings=Findings(3, ["x"]), recovery=0.123)

    versions = {**VERSIONS, "Python": platform.python_version()}
    assert read(tmp_path / "records.jsonl") == [
        Result("Broker", "a", "all went on", "seen", 0.12, 3, 1, 0, None, "now", versions)
    ]
