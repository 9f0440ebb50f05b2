"""The conformance suite of the broker port. Every adapter passes every test; what one cannot do, a flag says and a test
asserts."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from service.broker.memory import MemoryBroker
from service.broker.names import Names
from service.broker.port import Broker
from service.broker.rabbitmq import RabbitBroker
from service.clock import SystemClock

TYPES = {"mail.send": ("mail", "send-mail"), "report": ()}


@dataclass
class Adapter:
    """One kind of broker, and what it can do."""

    make: Callable[[], Broker]
    durable: bool
    """Messages outlive the process that sent them."""
    shared: bool
    """Several processes meet on it."""
    made: list[Broker] = field(default_factory=list)

    async def open(self) -> Broker:
        """A process of its own on this broker, as far as the broker knows; closed after the test."""
        broker = self.make()
        self.made.append(broker)
        await broker.open(TYPES)
        return broker


@pytest.fixture(params=["memory", "rabbitmq"])
def bare_adapter(request: pytest.FixtureRequest) -> Adapter:
    if request.param == "memory":
        return Adapter(lambda: MemoryBroker(SystemClock()), durable=False, shared=False)
    # Asked for here, so that a missing server fails only its own tests.
    url, prefix = request.getfixturevalue("amqp_url"), request.getfixturevalue("prefix")
    return Adapter(lambda: RabbitBroker(url, Names(prefix), SystemClock()), durable=True, shared=True)


@pytest.fixture
async def adapter(bare_adapter: Adapter) -> AsyncIterator[Adapter]:
    yield bare_adapter
    for broker in bare_adapter.made:
        await broker.close()


@pytest.fixture
async def broker(adapter: Adapter) -> Broker:
    return await adapter.open()
