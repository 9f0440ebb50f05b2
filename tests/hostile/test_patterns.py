"""No regular expression of the code can be made to try for ever."""

import ast
import importlib
import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.child import limited
from tests.hostile.code import calls, modules

COMMON = list("a0A_ \n-.:/\"'=%,#@*~`ä")
ENDS = ("", "!")
LONGEST = 200
LONG_SECONDS = 0.5
"""Of the processor, for one look at a text of some hundred characters; a few microseconds are usual."""


def test_no_pattern_takes_long_for_any_text() -> None:
    looked_at = limited(slow_patterns, seconds=240)

    assert looked_at["slow"] == []
    assert looked_at["patterns"] > 40


def slow_patterns() -> dict[str, Any]:
    found = patterns()
    slow = []
    for where, pattern in found.items():
        for text in attacks(pattern):
            begun = time.process_time()
            pattern.search(text)
            pattern.fullmatch(text)
            if time.process_time() - begun > LONG_SECONDS:
                slow.append(f"{where}: {pattern.pattern!r} on {text[:20]!r}…")
                break
    return {"slow": slow, "patterns": len(found)}


def patterns() -> dict[str, re.Pattern[str]]:
    """Those that modules hold, and those that are written where they are used."""
    found: dict[str, re.Pattern[str]] = {}
    for path, tree in modules().items():
        if path.endswith("__main__.py"):
            continue
        module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                found[f"{path}: {name}"] = value
        for name, call in calls(tree):
            first = call.args[0] if name.startswith("re.") and call.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and name != "re.escape":
                found[f"{path}: {call.lineno}"] = re.compile(first.value)
    return found


def attacks(pattern: re.Pattern[str]) -> Iterator[str]:
    """What its words begin with and then repeat, one character or two, until something does not fit."""
    words = list(dict.fromkeys(re.findall(r"[A-Za-z]{2,}|://|\W", pattern.pattern)))[:6]
    letters = list(dict.fromkeys((*COMMON, *(word for word in words if len(word) == 1))))
    for letter, begin, end in itertools.product((*letters, *words), ("", *words), ENDS):
        yield begin + letter * (LONGEST // len(letter)) + end
    for one, other in itertools.permutations(letters, 2):
        yield (one + other) * (LONGEST // 2) + "!"


def test_a_pattern_that_tries_for_ever_would_be_found() -> None:
    with pytest.raises(AssertionError, match="a_bad_pattern ended with -"):
        limited(a_bad_pattern, seconds=1)


def a_bad_pattern() -> None:
    bad = re.compile(r"(a+)+b")
    for text in attacks(bad):
        bad.fullmatch(text)
