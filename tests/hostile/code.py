"""The product's code as data."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("schemas", "service", "actors")
IMPORTERS = ("import_module", "__import__")


def modules() -> dict[str, ast.Module]:
    """Path → syntax tree of each module."""
    paths = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call, with the full name of what is called: ``pickle.loads``, ``self._eval``, ``eval``."""
    known = _known_as(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield _full(ast.unparse(node.func), known), node


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The full name of all that is looked up, called or not, and its line: ``run = os.system`` runs it later."""
    known = _known_as(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield _full(ast.unparse(node), known), node.lineno


def imported(tree: ast.AST) -> set[str]:
    """Every module that is imported, and every name from one: ``os``, ``os.path.join``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for name, call in calls(tree):
        if name.endswith(IMPORTERS) and call.args and isinstance(call.args[0], ast.Constant):
            found.add(str(call.args[0].value))
    return found


def _known_as(tree: ast.AST) -> dict[str, str]:
    """Name in this module → what it is of which module: ``from os import system as run`` hides nothing."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname is not None}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def _full(name: str, known: dict[str, str]) -> str:
    first, dot, rest = name.partition(".")
    return (known.get(first, first) + dot + rest).removeprefix("builtins.")
