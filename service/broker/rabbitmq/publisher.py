"""Publishing with confirms: pipelined, bounded in time, and quick to say no while the broker is away.

The driver's ``basic_publish`` costs some 200 µs a message (a lock, a timeout, a task and two registered futures each).
What is done here with the same channel costs a third of that: whole chunks are written at once, with one plain future a
message.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from aiormq import Channel
from aiormq.abc import ChannelFrame
from aiormq.exceptions import PublishError
from structlog.typing import FilteringBoundLogger

from service.broker.rabbitmq.driver import is_blocked
from service.broker.rabbitmq.wire import Outgoing, Unencodable, encode
from service.log_events import LogEvent

STALLED_SECONDS = 60.0
"""For how long a message without an answer speaks against the broker, if no other is tried."""
CONFIRM_SECONDS = 5.0
"""How long a sent message may wait for its confirm. Well below the 10 s after which relay looks at a task again."""
WINDOW = 256
"""Messages outstanding at once. 100 to 500 keep the broker busy; each ``multiple`` confirm looks at all of them."""
WINDOW_BYTES = 8 * 1024 * 1024
CHUNK = 64
"""Messages in one write; between two writes the loop runs other things."""
REFUSED_SECONDS = 30.0
"""How old a channel is before it is given up because a queue refuses what comes by it. A channel that was once told
that a queue is full is refused for good if the limit was lifted by a policy meanwhile (3.10); a new one is let in."""
LOG_EVERY_SECONDS = 5.0


class _Batch:
    """One call of ``send``."""

    __slots__ = ("done", "failed", "left", "reasons", "results")

    def __init__(self, size: int) -> None:
        self.results = [False] * size
        self.left = size
        self.reasons: Counter[str] = Counter()
        self.done = asyncio.Event()
        self.failed: str | None = None
        """Why what is left of it need not be sent."""

    def settle(self, index: int, refused: str | None) -> None:
        """``refused``: why not, or None when it is confirmed."""
        if refused is None:
            self.results[index] = True
        else:
            self.reasons[refused] += 1
        self.left -= 1
        if self.left == 0:
            self.done.set()

    def refuse_all(self, refused: str) -> None:
        self.reasons[refused] += self.left
        self.left = 0
        self.done.set()


class _Sent:
    """One message between its write and its answer."""

    __slots__ = ("at", "batch", "index", "settled", "size")

    def __init__(self, batch: _Batch, index: int, size: int, at: float) -> None:
        self.batch = batch
        self.index = index
        self.size = size
        self.at = at
        self.settled = False


class _Session:
    """Publishing on one channel, from its opening to its loss.

    It is *stalled* after a message got no answer in time and no other did since: the broker is frozen, or does not read
    us. Then one message at a time goes out to probe, and everything else is refused at once. Any answer, however late,
    ends it.
    """

    def __init__(self, channel: Channel, on_unroutable: Callable[[], None], on_broken: Callable[[str], None]) -> None:
        self._channel = channel
        self._on_unroutable = on_unroutable
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._id = uuid4().hex
        self._waiting: deque[tuple[_Batch, int, Outgoing]] = deque()
        self._sent: deque[_Sent] = deque()
        self._outstanding = 0
        self._outstanding_bytes = 0
        self._begun_at = self._answered_at = self._loop.time()
        self._stalled = False
        self._gave_up_at = 0.0
        self._writing = False
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._writer = asyncio.create_task(self._write(), name="broker publisher")
        self._writer.add_done_callback(self._writer_done)

    @property
    def stalled(self) -> bool:
        lately = self._loop.time() - self._gave_up_at < STALLED_SECONDS
        return self._stalled and lately and not is_blocked(self._channel.connection)

    def enqueue(self, batch: _Batch, messages: Sequence[Outgoing]) -> None:
        """Send them in turn; the batch learns of each outcome."""
        if is_blocked(self._channel.connection):
            batch.refuse_all("blocked")
        elif self._stalled and (self._outstanding or self._waiting or self._writing):
            batch.refuse_all("stalled")
        else:
            self._waiting.extend((batch, index, message) for index, message in enumerate(messages))
            self._work.set()

    def end(self, why: str) -> None:
        """The channel is lost: nothing will be answered any more."""
        self._writer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for sent in self._sent:
            self._settle(sent, why)
        self._sent.clear()
        self._refuse_waiting(why)

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            if is_blocked(self._channel.connection):
                self._refuse_waiting("blocked")
            payload = self._next_chunk()
            if not payload:
                self._work.clear()
                continue
            # Nothing else uses this channel: without its lock, too, the order of the tags is the order of the writes.
            self._writing = True
            await self._channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
            self._writing = False
            await asyncio.sleep(0)

    def _writer_done(self, writer: "asyncio.Task[None]") -> None:
        if not writer.cancelled():
            self._on_broken(f"the publisher failed: {writer.exception()!r}")

    def _next_chunk(self) -> bytes:
        chunk: list[bytes] = []
        window = 1 if self._stalled else WINDOW
        now = self._loop.time()
        while (
            self._waiting
            and len(chunk) < CHUNK
            and self._outstanding < window
            and self._outstanding_bytes < WINDOW_BYTES
        ):
            batch, index, message = self._waiting.popleft()
            if batch.failed is not None:
                batch.settle(index, batch.failed)
                continue
            message_id = f"{self._id}-{self._channel.delivery_tag + 1}"
            try:
                payload = encode(self._channel, message, message_id)
            except Unencodable as exc:
                batch.settle(index, f"unencodable: {exc}")
                continue
            self._expect_answer(_Sent(batch, index, len(payload), now), message_id)
            chunk.append(payload)
        return b"".join(chunk)

    def _expect_answer(self, sent: _Sent, message_id: str) -> None:
        """What the driver's ``basic_publish`` does before it writes."""
        self._channel.delivery_tag += 1
        answer = self._loop.create_future()
        self._channel.confirmations[self._channel.delivery_tag] = answer
        self._channel.message_id_delivery_tag[message_id] = self._channel.delivery_tag
        answer.add_done_callback(partial(self._answered, sent, message_id))
        self._sent.append(sent)
        self._outstanding += 1
        self._outstanding_bytes += sent.size
        if self._timer is None:
            self._timer = self._loop.call_at(sent.at + CONFIRM_SECONDS, self._expire)

    def _answered(self, sent: _Sent, message_id: str, answer: "asyncio.Future[Any]") -> None:
        self._channel.message_id_delivery_tag.pop(message_id, None)
        self._answered_at = self._loop.time()
        self._stalled = False
        error = answer.exception()
        if isinstance(error, PublishError):
            self._settle(sent, "returned: no queue is bound")
            self._on_unroutable()
        elif error is not None:
            self._settle(sent, "refused by the queue")
            if self._answered_at - self._begun_at >= REFUSED_SECONDS:
                self._on_broken("a queue refuses what is published on this channel")
        else:
            self._settle(sent, None)
        while self._sent and self._sent[0].settled:
            self._sent.popleft()
        if self._waiting:
            self._work.set()

    def _expire(self) -> None:
        """Give up on what has waited too long for its answer."""
        self._timer = None
        now = self._loop.time()
        while self._sent and (self._sent[0].settled or self._sent[0].at + CONFIRM_SECONDS <= now):
            sent = self._sent.popleft()
            if not sent.settled:
                self._settle(sent, "unanswered")
                sent.batch.failed = "unanswered"
                self._stalled = self._stalled or self._answered_at <= sent.at
                self._gave_up_at = now
        if self._stalled:
            self._refuse_waiting("stalled")
        if self._waiting:
            self._work.set()
        if self._sent:
            self._timer = self._loop.call_at(self._sent[0].at + CONFIRM_SECONDS, self._expire)

    def _settle(self, sent: _Sent, refused: str | None) -> None:
        if sent.settled:
            return
        sent.settled = True
        self._outstanding -= 1
        self._outstanding_bytes -= sent.size
        sent.batch.settle(sent.index, refused)

    def _refuse_waiting(self, why: str) -> None:
        while self._waiting:
            batch, index, _ = self._waiting.popleft()
            batch.settle(index, why)


class Publisher:
    """Sends on whatever channel there is, or says no at once."""

    def __init__(self, on_unroutable: Callable[[], None], log: FilteringBoundLogger) -> None:
        """``on_unroutable`` is called when a message reached no queue: the topology is damaged."""
        self._on_unroutable = on_unroutable
        self._log = log
        self._session: _Session | None = None
        self._unlogged: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        self.refused = 0
        """How many messages were not confirmed."""

    @property
    def stalled(self) -> bool:
        """Whether what was published last got no answer, although there is a connection, and it is not blocked."""
        return self._session is not None and self._session.stalled

    def attach(self, channel: Channel, on_broken: Callable[[str], None]) -> None:
        """Publish on this channel, which has confirms on and is used by nobody else."""
        self.detach()
        self._session = _Session(channel, self._on_unroutable, on_broken)

    def detach(self) -> None:
        """The channel is lost. What was not confirmed is refused."""
        if self._session is not None:
            self._session.end("disconnected")
            self._session = None

    async def send(self, messages: Sequence[Outgoing]) -> list[bool]:
        """True for each that was confirmed and routed. Returns at most some seconds after the broker's last answer."""
        if not messages:
            return []
        batch = _Batch(len(messages))
        if self._session is None:
            batch.refuse_all("disconnected")
        else:
            self._session.enqueue(batch, messages)
        try:
            await batch.done.wait()
        finally:
            batch.failed = "cancelled"
        if batch.reasons:
            self._log_refusals(batch.reasons)
        return batch.results

    def _log_refusals(self, reasons: Counter[str]) -> None:
        """One line a reason every few seconds: an outage is not the time to fill the disk with its logs."""
        now = asyncio.get_running_loop().time()
        self._unlogged += reasons
        self.refused += reasons.total()
        for reason in list(self._unlogged):
            if now - self._logged_at.get(reason, -LOG_EVERY_SECONDS) >= LOG_EVERY_SECONDS:
                self._log.warning(LogEvent.BROKER_PUBLISH_REFUSED, reason=reason, messages=self._unlogged.pop(reason))
                self._logged_at[reason] = now
