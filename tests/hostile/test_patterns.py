"""No regular expression of the code can be made to try for ever, nor for long."""

import ast
import importlib
import itertools
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas import duration
from tests.hostile.child import limited
from tests.hostile.code import calls, modules

COMMON = list("a0A_ \n-.:/\"'=%,#@*~`ä")
FEW = list("a0 ~")
"""Beside the pattern's own, of which each is tried: where a text is long, each look takes its time."""
ENDS = ("", "!")
SHORT, SHORT_SECONDS = 200, 0.5
"""Enough for a pattern that tries for ever."""
LONG, LONG_SECONDS = 20_000, 0.1
"""Of the processor, for one look: a pattern whose time grows as the text does takes a few milliseconds at most, one
whose time grows as its square some hundred."""
BOUNDED = {"schemas.duration._SHORT": duration._LONGEST}
"""What is never shown a longer text, by which it would take long."""
FROM_ALL = ("sub", "subn", "split", "findall", "finditer")
METHODS = ("search", "match", "fullmatch", *FROM_ALL)


@dataclass
class Used:
    """A pattern, and by which of its methods: ``fullmatch`` tries from one place, ``search`` from each."""

    pattern: re.Pattern[str]
    methods: set[str] = field(default_factory=set)

    def looks(self) -> Iterator[Callable[[str], Any]]:
        methods = self.methods or METHODS
        for method in ("match", "fullmatch", "search"):
            if method in methods:
                yield getattr(self.pattern, method)
        if not set(FROM_ALL).isdisjoint(methods):
            yield lambda text: deque(self.pattern.finditer(text), maxlen=0)


LOOKS = 3
"""What is slow is slow each time; a machine that is busy may be so once."""


def test_no_pattern_takes_long_for_any_text() -> None:
    looked_at = limited(slow_patterns, seconds=240)

    assert looked_at["slow"] == []
    assert looked_at["patterns"] > 40
    assert looked_at["of known use"] > 40


def slow_patterns() -> dict[str, Any]:
    found = patterns()
    longest = dict.fromkeys(found, LONG) | BOUNDED
    return {
        "slow": [
            f"{where}: {found[where].pattern.pattern!r} on {text}"
            for where, length in longest.items()
            for text in slow(found[where], length)
        ],
        "patterns": len(found),
        "of known use": sum(1 for used in found.values() if used.methods),
    }


def slow(used: Used, longest: int = LONG) -> list[str]:
    """The text that it takes too long for, if there is one. Each look ends soon after its time."""
    signal.signal(signal.SIGVTALRM, _too_long)
    for length, seconds, letters in ((SHORT, SHORT_SECONDS, COMMON), (longest, LONG_SECONDS, FEW)):
        for text, look in itertools.product(attacks(used.pattern, length, letters), used.looks()):
            if all(takes_longer(look, text, seconds) for _ in range(LOOKS)):
                return [f"{length} of {text[:20]!r}…"]
    return []


def takes_longer(look: Callable[[str], Any], text: str, seconds: float) -> bool:
    begun = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)
        look(text)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except TimeoutError:
        return True
    return time.process_time() - begun > seconds


def _too_long(*_: Any) -> None:
    raise TimeoutError


def patterns() -> dict[str, Used]:
    """Those that modules hold, each by one of its names, and those that are written where they are used."""
    held: dict[str, Used] = {}
    written: dict[str, Used] = {}
    same: dict[re.Pattern[str], Used] = {}
    trees = {path: tree for path, tree in modules().items() if not path.endswith("__main__.py")}
    for path in trees:
        module = importlib.import_module(_module(path))
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                held[f"{_module(path)}.{name}"] = same.setdefault(value, Used(value))
    texts = {pattern.pattern for pattern in same}
    for path, tree in trees.items():
        for name, call in calls(tree):
            of, _, method = name.rpartition(".")
            if method in METHODS and (used := held.get(of) or held.get(f"{_module(path)}.{of}")):
                used.methods.add(method)
            if of != "re" or method not in (*METHODS, "compile"):
                continue
            first = call.args[0] if call.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value not in texts:
                written[f"{path}: {call.lineno}"] = Used(re.compile(first.value), {method} - {"compile"})
    return {where: used for where, used in held.items() if same.pop(used.pattern, None)} | written


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def attacks(pattern: re.Pattern[str], length: int = SHORT, common: Iterable[str] = COMMON) -> Iterator[str]:
    """What its words begin with and then repeat, one character or two, until something does not fit."""
    words = list(dict.fromkeys(re.findall(r"[A-Za-z]{2,}|://|\W", pattern.pattern)))[:6]
    own = re.findall(r"\W", pattern.pattern)
    letters = list(dict.fromkeys((*common, *own)))
    for letter, begin, end in itertools.product(dict.fromkeys((*letters, *words)), ("", *words), ENDS):
        yield begin + letter * (length // len(letter)) + end
    for one, other in (*itertools.permutations(letters, 2), *itertools.product(words, letters)):
        yield (one + other) * (length // len(one + other)) + "!"


def test_a_pattern_that_tries_for_ever_would_be_found() -> None:
    with pytest.raises(AssertionError, match="a_bad_pattern ended with -"):
        limited(a_bad_pattern, seconds=1)


def a_bad_pattern() -> None:
    bad = re.compile(r"(a+)+b")
    for text in attacks(bad):
        bad.fullmatch(text)


def test_a_pattern_whose_time_grows_faster_than_the_text_would_be_found() -> None:
    assert limited(known_patterns, seconds=60) == {
        r"a+b by search": True,
        r"a+b by fullmatch": False,
        r"(?:a+)+b by fullmatch": True,
        r"\s+$ by sub": True,
        r"\d*\d*x by fullmatch": True,
        r"://[^:]*:\S*@ by search": True,
        r"(?:, |,)*\w+ by split": True,
    }


def known_patterns() -> dict[str, bool]:
    known = [
        *((r"a+b", "search"), (r"a+b", "fullmatch"), (r"(?:a+)+b", "fullmatch"), (r"\s+$", "sub")),
        *((r"\d*\d*x", "fullmatch"), (r"://[^:]*:\S*@", "search"), (r"(?:, |,)*\w+", "split")),
    ]
    return {f"{text} by {method}": bool(slow(Used(re.compile(text), {method}))) for text, method in known}
