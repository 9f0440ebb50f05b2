"""What the code never does, whatever data it is given."""

import ast
from collections.abc import Callable, Iterator

from tests.hostile.code import calls, imported, modules

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
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module"}
UNPACKING = {"extractall", "unpack_archive", "_extract_member"}
PARSERS = {"zipfile", "xml", "xml.etree.ElementTree"}
JAVASCRIPT = ("$where", "$function", "$accumulator", "mapReduce", "eval")
IMPORTS_BY_NAME = ("service/registry.py", "actors/cli/lazy.py", "__init__.py")
"""Those of VERGER_ACTORS, and modules of a package of its own: a name never comes from data."""
NETWORK = ("aiohttp", "http.client", "urllib.request", "urllib3", "requests", "httpx", "ftplib", "smtplib", "telnetlib")
OUTWARD = ("actors/maintenance/http/", "actors/maintenance/embedder/", "actors/memories/summariser/")
"""What opens HTTP connections: the client behind the gate, which checks each address; and Ollama's, whose URL is a
setting."""


def found(search: Callable[[ast.Module], Iterator[str]]) -> list[str]:
    """``path: what`` for everything that a search finds."""
    return [f"{path}: {what}" for path, tree in MODULES.items() for what in search(tree)]


def test_no_data_is_unpickled_evaluated_or_run_by_a_shell() -> None:
    def unsafe(tree: ast.Module) -> Iterator[str]:
        yield from {name.partition(".")[0] for name in imported(tree)} & UNSAFE_MODULES
        for name, call in calls(tree):
            shell = [each for each in call.keywords if each.arg == "shell" and ast.unparse(each.value) != "False"]
            if name in UNSAFE_CALLS or "subprocess_shell" in name or shell:
                yield f"line {call.lineno}, {name}"

    assert found(unsafe) == []


def test_no_module_is_imported_because_data_names_it() -> None:
    def by_name(tree: ast.Module) -> Iterator[str]:
        for name, call in calls(tree):
            if name.endswith("import_module") and not isinstance(call.args[0], ast.Constant):
                yield f"line {call.lineno}"

    assert [where for where in found(by_name) if not where.partition(":")[0].endswith(IMPORTS_BY_NAME)] == []


def test_no_archive_is_unpacked_by_a_library() -> None:
    def unpacks(tree: ast.Module) -> Iterator[str]:
        yield from {name.rpartition(".")[2] for name, _ in calls(tree)} & UNPACKING
        yield from imported(tree) & PARSERS

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
