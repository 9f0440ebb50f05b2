"""What the code never does, whatever data it is given."""

import ast
from collections.abc import Callable, Iterator

import pytest

from tests.hostile.code import IMPORTERS, calls, imported, modules, names

MODULES = modules()

UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "jsonpickle",
    "yaml",
    "ctypes",
}
UNSAFE = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "posix.system", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
    *("runpy.run_path", "runpy.run_module", "asyncio.create_subprocess_shell"),
}
UNPACKING = {"extractall", "unpack_archive", "_extract_member"}
PARSERS = {"zipfile", "xml"}
JAVASCRIPT = ("$where", "$function", "$accumulator", "mapReduce", "eval")
IMPORTS_BY_NAME = {
    "service/registry.py",
    "actors/cli/lazy.py",
    "actors/__init__.py",
    "actors/api/routes/__init__.py",
    "actors/cli/reference/__init__.py",
}
"""Those of VERGER_ACTORS, and modules of a package of its own: a name never comes from data."""
NETWORK = ("aiohttp", "http.client", "urllib.request", "urllib3", "requests", "httpx", "ftplib", "smtplib", "telnetlib")
OUTWARD = ("actors/maintenance/http/", "actors/maintenance/embedder/", "actors/memories/summariser/")
"""What opens HTTP connections: the client behind the gate, which checks each address; and Ollama's, whose URL is a
setting."""


def found(search: Callable[[ast.Module], Iterator[str]]) -> list[str]:
    """``path: what`` for everything that a search finds."""
    return [f"{path}: {what}" for path, tree in MODULES.items() for what in search(tree)]


def unsafe(tree: ast.Module) -> Iterator[str]:
    yield from {name.partition(".")[0] for name in imported(tree)} & UNSAFE_MODULES
    yield from imported(tree) & {*UNSAFE, "os.*", "subprocess.*", "builtins.*"}
    yield from (f"line {line}, {name}" for name, line in names(tree) if name in UNSAFE)
    for name, call in calls(tree):
        shell = [each for each in call.keywords if each.arg == "shell" and ast.unparse(each.value) != "False"]
        if "subprocess_shell" in name or shell:
            yield f"line {call.lineno}, {name}"


def by_name(tree: ast.Module) -> Iterator[str]:
    for name, line in names(tree):
        if name.endswith(IMPORTERS):
            yield f"line {line}"


def test_no_data_is_unpickled_evaluated_or_run_by_a_shell() -> None:
    assert found(unsafe) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import os; os.system(x)",
        "import os as o; o.popen(x)",
        "from os import system",
        "from os import system as run; run(x)",
        "from os import *",
        "import os; run = os.system",
        "list(map(eval, x))",
        "import builtins; builtins.exec(x)",
        "from importlib import import_module; import_module('pickle')",
        "from subprocess import run; run(x, shell=True)",
        "from subprocess import getoutput",
        "import asyncio; asyncio.create_subprocess_shell(x)",
        "loop.subprocess_shell(x)",
    ],
)
def test_what_evaluates_or_runs_a_shell_is_found_by_whatever_name(code: str) -> None:
    assert list(unsafe(ast.parse(code))) != []


def test_no_module_is_imported_because_data_names_it() -> None:
    """And whoever is let off still does it."""
    assert {where.partition(":")[0] for where in found(by_name)} == IMPORTS_BY_NAME


@pytest.mark.parametrize(
    "code",
    [
        "import importlib; importlib.import_module(x)",
        "from importlib import import_module as load; load(x)",
        "from importlib import import_module; found = map(import_module, x)",
        "import importlib as i; i.import_module(name=x)",
    ],
)
def test_an_import_by_name_is_found_by_whatever_name(code: str) -> None:
    assert list(by_name(ast.parse(code))) != []


def test_no_archive_is_unpacked_by_a_library() -> None:
    def unpacks(tree: ast.Module) -> Iterator[str]:
        yield from {name.rpartition(".")[2] for name, _ in names(tree)} & UNPACKING
        yield from {name.partition(".")[0] for name in imported(tree)} & PARSERS

    assert found(unpacks) == []


def test_http_to_a_url_of_somebody_else_s_goes_through_the_gate() -> None:
    def asks(tree: ast.Module) -> Iterator[str]:
        yield from (name for name in imported(tree) if name.startswith(NETWORK))

    assert [where for where in found(asks) if not where.startswith(OUTWARD)] == []


def test_mongodb_is_never_asked_to_run_javascript() -> None:
    def scripts(tree: ast.Module) -> Iterator[str]:
        yield from (
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in JAVASCRIPT
        )

    assert found(scripts) == []
