"""docs/guarantees.md stays true: every promise names tests, and those exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROMISES = 7
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def sections() -> dict[str, str]:
    """The text under each heading of the page."""
    parts = re.split(r"^## (.+)$", (ROOT / "docs/guarantees.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("number", range(1, PROMISES + 1))
def test_a_promise_names_the_tests_that_hold_it(number: int) -> None:
    [text] = [text for title, text in sections().items() if title.startswith(f"{number}. ")]

    named = _TEST.findall(text.partition("Held by:")[2])

    assert named
    missing = [f"{path}::{name}" for path, name in named if name not in functions(path)]
    assert not missing


def test_no_promise_is_without_a_number() -> None:
    assert [title[:2] for title in sections()][:-1] == [f"{number}." for number in range(1, PROMISES + 1)]
