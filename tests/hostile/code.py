"""The product's code as data."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("schemas", "service", "actors")


def modules() -> dict[str, ast.Module]:
    """Path → syntax tree of each module."""
    paths = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call, with what is called as it is written: ``pickle.loads``, ``self._eval``, ``eval``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(tree: ast.AST) -> set[str]:
    """Every module that is imported, and every name from one: ``os``, ``os.path.join``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
