"""The topology and the address: pure functions."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from service.broker.names import Names
from service.broker.port import DELAY_LADDER, rung
from service.broker.rabbitmq.address import parse_address
from service.broker.rabbitmq.link import Backoff, _check_version
from service.broker.rabbitmq.topology import Binding, Topology, topology
from service.errors import ConfigError


@pytest.fixture
def declared() -> Topology:
    return topology(Names(), {"mail.send": ("mail", "mail.send"), "report": ()})


def test_exchanges(declared: Topology) -> None:
    exchanges = {each.name: (each.kind, each.arguments) for each in declared.exchanges}

    assert exchanges.pop("verger.tasks") == ("direct", {"alternate-exchange": "verger.intake"})
    assert exchanges.pop("verger.intake") == ("fanout", {})
    assert exchanges.pop("verger.dead") == ("topic", {})
    assert exchanges.pop("verger.events") == ("topic", {})
    assert exchanges.pop("verger.control") == ("fanout", {})
    assert set(exchanges) == {
        f"verger.delay.{seconds}s" for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
    }
    assert all(each == ("fanout", {}) for each in exchanges.values())


def test_queues(declared: Topology) -> None:
    queues = {each.name: each.arguments for each in declared.queues}
    lossless = {
        "x-queue-type": "quorum",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }

    task = lossless | {"x-dead-letter-exchange": "verger.intake", "x-delivery-limit": 1_000_000}
    assert queues["verger.tasks.mail.send"] == queues["verger.tasks.report"] == task
    assert queues["verger.intake"] == task | {"x-dead-letter-exchange": "verger.dead"}
    delay = lossless | {"x-dead-letter-exchange": "verger.tasks", "x-message-ttl": 30_000}
    assert queues["verger.delay.30s"] == delay
    assert queues["verger.dead-letters"] == {
        "x-queue-type": "quorum",
        "x-overflow": "drop-head",
        "x-max-length": 10_000,
        "x-max-length-bytes": 256 * 1024 * 1024,
        "x-message-ttl": 30 * 24 * 3600 * 1000,
        "x-delivery-limit": 1_000_000,
    }
    assert len(queues) == 2 + 2 + len(DELAY_LADDER)


def test_bindings(declared: Topology) -> None:
    by_key = [each for each in declared.bindings if each.exchange == "verger.tasks"]

    assert by_key == [
        Binding("verger.tasks.mail.send", "verger.tasks", "mail.send"),
        Binding("verger.tasks.mail.send", "verger.tasks", "mail"),
        Binding("verger.tasks.report", "verger.tasks", "report"),
    ]
    assert Binding("verger.dead-letters", "verger.dead", "#") in declared.bindings
    assert Binding("verger.intake", "verger.intake") in declared.bindings
    assert Binding("verger.delay.1s", "verger.delay.1s") in declared.bindings


@pytest.mark.parametrize(
    ("wait", "step"), [(0.0, 1), (1.0, 1), (1.9, 1), (4.0, 2), (45.0, 30), (3600.0, 3600), (1e6, 3600)]
)
def test_a_wait_takes_the_longest_rung_that_fits(wait: float, step: int) -> None:
    assert rung(timedelta(seconds=wait)) == timedelta(seconds=step)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://me:geheim@broker/", "broker:5672/"),
        ("amqp://me:geheim@broker:5673/verger", "broker:5673/verger"),
        ("amqps://me:geheim@broker/%2Fverger", "broker:5671/verger"),
        ("amqp://broker", "broker:5672/"),
    ],
)
def test_an_address_shows_no_password(url: str, shown: str) -> None:
    address = parse_address(url)

    assert address.shown == shown
    assert "geheim" not in repr(address)


def test_the_heartbeat_is_ten_seconds_unless_the_url_says_otherwise() -> None:
    assert parse_address("amqp://broker/").url.query["heartbeat"] == "10"
    assert parse_address("amqp://broker/?heartbeat=3&name=x").url.query["heartbeat"] == "3"


@pytest.mark.parametrize("url", ["amqp://me:ge/heim@broker", "http://me:geheim@broker", "amqp://", "geheim", ""])
def test_what_is_no_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="VERGER_AMQP_URL") as refused:
        parse_address(url)

    assert "heim" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("properties", "fits"),
    [
        ({"product": "RabbitMQ", "version": "3.9.29"}, False),
        ({"product": "RabbitMQ", "version": "3.10.0"}, True),
        ({"product": "RabbitMQ", "version": "4.0.5"}, True),
        ({"product": "RabbitMQ", "version": "next"}, True),
        ({"product": "LavinMQ", "version": "2.1.0"}, True),
        ({}, True),
    ],
)
def test_a_broker_that_is_too_old_is_refused(properties: dict[str, str], fits: bool) -> None:
    connection: Any = SimpleNamespace(server_properties=properties)
    address = parse_address("amqp://broker/")

    if fits:
        _check_version(connection, address)
    else:
        with pytest.raises(ConfigError, match=r"3\.9\.29.*3\.10 or later"):
            _check_version(connection, address)


def test_waits_between_attempts_grow_to_five_seconds_and_start_again() -> None:
    backoff = Backoff()

    waits = [backoff.next() for _ in range(200)]

    assert waits[0] <= 0.1
    assert all(2.5 <= wait <= 5 for wait in waits[6:])
    assert len(set(waits)) == len(waits)
    backoff.reset()
    assert backoff.next() <= 0.1
