"""A Verger process that kills itself, ``kill -9``, at a named step of its work.

The product knows nothing of it: its methods are wrapped from outside, at start-up, in the process that is to die.

python -m tests.faults.kit.crash worker
"""

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults.kit import ledger, suspension

CRASH = "FAULTS_CRASH"
"""The variable that names the step, and how often it is survived: ``claimed:3``."""


@dataclass(frozen=True)
class Step:
    """Right before or after a call of one method."""

    method: str
    """``module:Class.method``, or a function."""
    before: bool = False
    when: Callable[..., bool] = lambda *_: True
    """Whether this call counts; gets its arguments, without ``self``."""


def _fires(publications: Any) -> bool:
    return any(b'"fire:' in publication.body for publication in publications)


def _tasks(publications: Any) -> bool:
    return any(publication.headers.get("verger-stored") for publication in publications)


def _dead(publications: Any) -> bool:
    return any("verger-reason" in publication.headers for publication in publications)


def _ends_failed(settlements: Any) -> bool:
    return any(settlement.move.status.value == "failed" for settlement in settlements)


def _retries(settlements: Any) -> bool:
    return any(settlement.move.failed and settlement.move.retry_at is not None for settlement in settlements)


def _claims(claimed: Any, *_: Any) -> bool:
    return bool(claimed)


def _line(kind: str) -> Callable[..., bool]:
    return lambda what, *_, **__: what == kind


CLAIMS = "service.store.mongo.claims:MongoClaims"
SCHEDULES = "service.store.mongo.schedules:MongoSchedules"
UPKEEP = "service.store.mongo.upkeep:MongoUpkeep"
TASKS = "service.store.mongo.tasks:MongoTasks"
BROKER = "service.broker.rabbitmq.broker:RabbitBroker"
CONSUMER = "service.broker.rabbitmq.consumer:RabbitConsumer"

STEPS = {
    # A task in a worker.
    "received": Step(f"{CLAIMS}.claim", before=True, when=_claims),
    "claimed": Step(f"{CLAIMS}.claim", when=_claims),
    "acknowledged": Step(f"{CONSUMER}.ack", when=bool),
    "running": Step("tests.faults.kit.ledger:write", when=_line("start")),
    "effect done": Step("tests.faults.kit.ledger:write", when=_line("effect")),
    "finishing": Step(f"{CLAIMS}.settle", before=True, when=bool),
    "finished": Step(f"{CLAIMS}.settle", when=bool),
    "retry written": Step(f"{CLAIMS}.settle", when=_retries),
    "dead letter written": Step(f"{CLAIMS}.settle", when=_ends_failed),
    "dead letter published": Step(f"{BROKER}.publish", when=_dead),
    "child stored": Step(f"{TASKS}.create", when=lambda tasks, **_: any(task.id.endswith("-child") for task in tasks)),
    # A fire in a scheduler (P17).
    "fire begun": Step(f"{SCHEDULES}.begin_fires", when=_claims),
    "fire inserted": Step(f"{TASKS}.create", when=lambda tasks, **_: any(task.schedule_id for task in tasks)),
    "fire published": Step(f"{BROKER}.publish", when=_fires),
    "fire ended": Step(f"{SCHEDULES}.end_fires", when=bool),
    # Relay (P11) and rescue (P9).
    "relay moved": Step(f"{UPKEEP}.relay_move", when=bool),
    "relay published": Step(f"{BROKER}.publish", when=_tasks),
    "rescued": Step(f"{UPKEEP}.rescue"),
}


def arm(order: str) -> None:
    """Wrap the method of the step that ``order`` names."""
    name, _, survived = order.partition(":")
    step = STEPS[name]
    left = int(survived or 0)

    def reached(*arguments: Any, **named: Any) -> None:
        nonlocal left
        if not step.when(*arguments, **named):
            return
        left -= 1
        if left < 0:
            ledger.write("crash", detail=name)
            os.kill(os.getpid(), signal.SIGKILL)

    module, _, path = step.method.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, method = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, method)
    own = 1 if classes else 0  # self

    @functools.wraps(original)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        if step.before:
            reached(*arguments[own:], **named)
        answer = await original(*arguments, **named)
        if not step.before:
            reached(*arguments[own:], **named)
        return answer

    @functools.wraps(original)
    def called(*arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        reached(*arguments[own:], **named)
        return answer

    setattr(owner, method, awaited if inspect.iscoroutinefunction(original) else called)


if __name__ == "__main__":
    from tests.promises.process import main

    # Run as a program this module is not the one of its name: the ledger is, and it is what all share.
    if order := os.environ.get(CRASH):
        arm(order)
    suspension.arm_if_told()
    sys.exit(main())
