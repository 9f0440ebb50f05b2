"""What may happen, drawn at random: steps that can be taken in any state, so that any of them may be left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from tests.faults.protocol.model import Kind, Loss, Outcome

WIRED = 2
"""The actor whose replies may be lost."""

Chooser = Callable[[Random], Any]


def among(options: Sequence[Any]) -> Chooser:
    return lambda random: random.choice(options)


def several(chooser: Chooser, least: int, most: int) -> Chooser:
    return lambda random: [chooser(random) for _ in range(random.randint(least, most))]


IDS = among("abcdefghijkl")
NAMES = among([None, None, "n", "n", "=s", "=t"])
"""Singletons by name, and by the body that the tasks of a schedule have."""
DELAYS = among([0, 0, 0, 0, 0, 1, 3, 12])
"""At once; through the delay queues; beyond them."""
CEILINGS = among([1, 2, 3])
ACTORS = among([0, 1, WIRED])
DUTIES = among([0, WIRED])
"""Of a scheduler, whose clock is right."""
PICK = among(range(30))
PICKS = several(PICK, 1, 4)
KINDS: list[Kind] = ["completed", "completed", "completed", "failed", "retry", "retry"]
KINDS += ["snooze", "release", "discard", "cancelled"]
COMMANDS = ("insert", "update", "update", "findAndModify")
SCHEDULES = among("st")
SOMETIMES = among([False, False, False, True])


def an_outcome(random: Random) -> Outcome:
    return Outcome(random.choice(KINDS), random.choice((0, 0, 1, 3, 12)))


def a_loss(random: Random) -> Loss | None:
    return Loss(random.choice(COMMANDS), random.choice((False, True))) if random.random() < 0.3 else None


@dataclass(frozen=True)
class Step:
    """A method and what it is called with: drawn without a look at the state, so that any of them may be left out."""

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


Method = TypeVar("Method", bound=Callable[..., None])
_STEPS: list[tuple[str, float, dict[str, Chooser]]] = []


def step(weight: float, **arguments: Chooser) -> Callable[[Method], Method]:
    """One thing that may happen at any time, that often beside the others."""

    def register(method: Method) -> Method:
        _STEPS.append((method.__name__, weight, arguments))
        return method

    return register


def drawn(random: Random, count: int) -> list[Step]:
    chosen = random.choices(_STEPS, [weight for _, weight, _ in _STEPS], k=count)
    return [Step(name, {key: choose(random) for key, choose in arguments.items()}) for name, _, arguments in chosen]


def shortened(walk: Callable[[Sequence[Step]], None], steps: list[Step]) -> list[Step]:
    """As few of the steps as still fail."""
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            try:
                walk(fewer)
                start += size
            except AssertionError:
                steps = fewer
        size //= 2
    return steps
