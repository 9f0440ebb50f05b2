"""Whether a process lives, and whether it is ready: one answer for every role, by whatever door it is asked for.

*Lives* looks at nothing but the event loop: a probe that asked servers would have every process restarted in an outage
of theirs. *Ready* looks at the servers and the consumers, at most every five seconds, however many ask.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

import structlog

from service.errors import Unavailable
from service.log_events import LogEvent
from service.metrics import Metrics

log = structlog.get_logger()

PULSE_SECONDS = 1.0
BLOCKED_SECONDS = 10.0
"""A loop that has not turned for so long is not alive."""
LATE_SECONDS = 2.0
"""One that was so late is worth a line in the log."""
ASK_SECONDS = 5.0
"""How often a server is asked at most."""
PATIENCE_SECONDS = 0.5
"""How long an answer to a probe waits for one: Kubernetes gives it a second."""
FRESH_SECONDS = 15.0
"""For how long an answer of a server counts."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    part: str
    """``loop``, ``process``, ``store``, ``broker``, or a consumer."""
    problem: str


class Contact:
    """One server, and when it answered last."""

    def __init__(self, part: str, ask: Callable[[], Awaitable[object]]) -> None:
        """``ask`` is a round trip; it raises Unavailable."""
        self.part, self._ask = part, ask
        self._asked_at = float("-inf")
        self._answered_at: float | None = None
        self._error = "it has not answered yet"
        self._asking: asyncio.Task[None] | None = None

    async def problem(self) -> Problem | None:
        """None: a round trip succeeded within the last ``FRESH_SECONDS``."""
        now = time.monotonic()
        if self._asking is None and now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._asking = asyncio.create_task(self._try(), name=f"probe of the {self.part}")
        if self._asking is not None:
            await asyncio.wait((self._asking,), timeout=PATIENCE_SECONDS)
        now = time.monotonic()
        if self._answered_at is not None and now - self._answered_at <= FRESH_SECONDS:
            return None
        since = "" if self._answered_at is None else f"no answer for {now - self._answered_at:.0f} s: "
        return Problem(self.part, f"{since}{self._error}")

    async def _try(self) -> None:
        try:
            await self._ask()
            self._answered_at = time.monotonic()
            self._error = "it does not answer"
        except Unavailable as error:
            self._error = str(error)
        finally:
            self._asking = None

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()


class Health:
    """Asked by probes; ``live`` from any thread, ``ready`` in the loop's."""

    def __init__(self, metrics: Metrics) -> None:
        self.contacts: list[Contact] = []
        self.consumers: Callable[[], Collection[str]] = list
        """Names those that the broker should feed and does not."""
        self.state: str | None = "starting"
        """Why the process takes no work: ``starting``, ``draining``; None: it does."""
        self._metrics = metrics
        self._turned_at = time.monotonic()
        self._pulse: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._pulse = asyncio.create_task(self._beat(), name="pulse")

    async def stop(self) -> None:
        for contact in self.contacts:
            contact.close()
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.wait((self._pulse,))

    async def _beat(self) -> None:
        """Notes that the loop turns, and how late it is."""
        while True:
            self._turned_at = due = time.monotonic()
            await asyncio.sleep(PULSE_SECONDS)
            late = max(0.0, time.monotonic() - due - PULSE_SECONDS)
            self._metrics.loop_lag.observe(late)
            if late >= LATE_SECONDS:
                log.warning(LogEvent.LOOP_BLOCKED, seconds=round(late, 1))

    def live(self) -> list[Problem]:
        """What says that the process should be restarted; touches nothing."""
        still = time.monotonic() - self._turned_at - PULSE_SECONDS
        if still <= BLOCKED_SECONDS:
            return []
        return [Problem("loop", f"the event loop has not turned for {still:.0f} s: something blocks it")]

    async def servers(self) -> dict[str, bool]:
        """Which of them answer."""
        problems = await asyncio.gather(*(contact.problem() for contact in self.contacts))
        return {contact.part: problem is None for contact, problem in zip(self.contacts, problems, strict=True)}

    async def ready(self) -> list[Problem]:
        """What says that it should not be given work."""
        found: list[Problem | None] = [*self.live()]
        if self.state is not None:
            found.append(Problem("process", f"it is {self.state}"))
        found += await asyncio.gather(*(contact.problem() for contact in self.contacts))
        found += [Problem(name, "the broker does not feed its consumer") for name in self.consumers()]
        return [problem for problem in found if problem is not None]


def answer(problems: Iterable[Problem]) -> tuple[int, dict[str, object]]:
    """The status and the JSON body of a probe's answer."""
    said = [{"part": each.part, "problem": each.problem} for each in problems]
    return (503, {"status": "unavailable", "problems": said}) if said else (200, {"status": "ok"})
