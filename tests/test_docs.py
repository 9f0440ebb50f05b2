"""The documentation names only what is there, and leaves out nothing that a reader needs."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from actors import actor
from schemas.message import TaskMessage
from schemas.schedule import ScheduleEntry
from service.broker.names import Names
from service.broker.port import DELAY_LADDER
from service.broker.rabbitmq.topology import topology

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LAYERS = ("schemas", "service", "actors")

_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_FILE = re.compile(r"`((?:schemas|service|actors|tests|examples|docs|scripts)/[\w./-]*)`")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RULE = re.compile(r"(?:\bP|test_p|_p(?=\d+_))(\d{1,2})(?=\b|_)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What a link may name after #, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    prose = _BLOCK.sub("", text_of(page))
    for target, anchor in _LINK.findall(prose):
        if "://" in target or target.startswith("mailto:"):
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{target} is not there"
        assert found.is_relative_to(ROOT), f"{target} leads out of the project"
        if anchor:
            assert anchor in anchors(found), f"{target} has no heading {anchor}"


@pages
def test_named_files_and_tests_are_there(page: Path) -> None:
    text = text_of(page)
    missing = [name for name in _FILE.findall(text) if not (ROOT / name).exists()]
    for path, name in _TEST.findall(text):
        source = ROOT / path
        if not source.exists() or not re.search(rf"^(?:async )?def {name}\(", text_of(source), re.MULTILINE):
            missing.append(f"{path}::{name}")
    assert not missing


@pages
def test_python_in_a_page_is_python(page: Path) -> None:
    for language, code in _BLOCK.findall(text_of(page)):
        if language == "python":
            ast.parse(code, str(page))


def test_the_protocol_explains_every_rule_that_code_and_tests_name() -> None:
    explained = set(re.findall(r"\*\*(P\d{1,2}) ", text_of(ROOT / "docs/protocol.md")))
    sources = [path for folder in (*LAYERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    named = {f"P{number}" for path in sources for number in _RULE.findall(text_of(path))}

    assert explained == {f"P{number}" for number in range(1, 20)}
    assert named <= explained


def test_every_option_of_an_actor_is_documented() -> None:
    said = text_of(ROOT / "docs/write-an-actor.md")

    assert [name for name in inspect.signature(actor).parameters if f"`{name}`" not in said] == []


@pytest.mark.parametrize(
    ("page", "keys"),
    [
        ("docs/publishing.md", [info.alias or name for name, info in TaskMessage.model_fields.items()]),
        ("docs/schedules.md", list(ScheduleEntry.model_fields)),
    ],
)
def test_every_key_that_is_read_is_documented(page: str, keys: list[str]) -> None:
    said = text_of(ROOT / page)

    assert [key for key in keys if f"`{key}`" not in said] == []


def test_the_topology_is_documented_with_its_arguments() -> None:
    said = text_of(ROOT / "docs/publishing.md")
    declared = topology(Names(), {"<taskType>": ()})

    names = {each.name for each in declared.exchanges} | {each.name for each in declared.queues}
    assert [name for name in sorted(names) if ".delay." not in name and f"`{name}`" not in said] == []
    assert " ".join(str(int(step.total_seconds())) for step in DELAY_LADDER) in said
    for queue in declared.queues:
        for key, value in queue.arguments.items():
            assert key in ("x-queue-type", "x-message-ttl") or f"`{key}: {value!s}`" in said, (queue.name, key)


def test_every_runtime_dependency_has_its_reason() -> None:
    said = text_of(ROOT / "docs/decisions/0001-dependencies.md")
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]

    names = [re.split(r"[^\w-]", each, maxsplit=1)[0] for each in project["dependencies"]]
    assert [name for name in names if f"`{name}`" not in said] == []
