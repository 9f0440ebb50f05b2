"""The control actor: hints from the control exchange, handed to whom they concern. The store holds the truth."""

from collections.abc import Callable

from actors.base import Actor
from actors.mailbox import Mailbox
from schemas.event import ControlMessage
from service.broker.port import Broker


class ControlActor(Actor):
    """Every process has one."""

    name = "control"

    def __init__(self, broker: Broker) -> None:
        self._mailbox: Mailbox[ControlMessage] = Mailbox()
        self._listeners: list[Callable[[ControlMessage], None]] = []
        self._stopping = False
        broker.on_control(self._mailbox.put)

    def listen(self, callback: Callable[[ControlMessage], None]) -> None:
        self._listeners.append(callback)

    def stop(self) -> None:
        self._stopping = True
        self._mailbox.ring()

    async def run(self) -> None:
        while not self._stopping:
            await self._mailbox.wait()
            for message in self._mailbox.take():
                for listener in self._listeners:
                    listener(message)
