"""Which handlers there are: collected from modules, and refused when they contradict each other."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from service.errors import ConfigError, NotFound
from service.registry import Handler, Registry, Resource, fold, load
from service.settings import Settings

Write = Callable[[str, str], str]


def handler(task_type: str, *aliases: str) -> Handler:
    async def run(body: dict[str, object]) -> None:
        """Do it.

        Slowly.
        """

    return Handler(task_type, run, None, wants_context=False, is_async=True, aliases=aliases)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module that can be imported during the test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(f"from actors import actor, resource, Context\n{text}")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


# ---- looking for a handler -------------------------------------------------------------------------------------------


def test_a_handler_is_found_by_its_type_and_its_aliases_as_people_write_them() -> None:
    one, other = handler("report.build", "old_report"), handler("mail")
    registry = Registry([one, other])

    for name in ("report.build", "Report.Build", "old_report", " Old Report "):
        assert registry.find(name) is one
        assert registry.get(name) is one
    assert registry.find("nothing") is None
    assert list(registry) == [one, other]
    assert len(registry) == 2


def test_who_asks_for_an_unknown_type_hears_what_there_is() -> None:
    with pytest.raises(NotFound, match=r"'x'; known: mail, report"):
        Registry([handler("report"), handler("mail")]).get("x")
    with pytest.raises(NotFound, match="VERGER_ACTORS"):
        Registry().get("x")


def test_a_handler_knows_its_names_and_what_it_is_for() -> None:
    one = handler("report", "old")

    assert one.names == ("report", "old")
    assert one.summary == "Do it."


@pytest.mark.parametrize(
    ("name", "folded"),
    [("Report Build", "report_build"), (" a--b ", "a--b"), ("ÄÖ", "_"), ("a/b\\c", "a_b_c"), ("x.y_z-1", "x.y_z-1")],
)
def test_a_name_is_folded_to_a_type(name: str, folded: str) -> None:
    assert fold(name) == folded


# ---- contradictions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "handlers",
    [
        [handler("a"), handler("a")],
        [handler("a"), handler("b", "a")],
        [handler("a", "b"), handler("b")],
        [handler("a", "x"), handler("b", "x")],
    ],
    ids=["two types", "a type and an alias", "an alias and a type", "two aliases"],
)
def test_two_handlers_for_a_name_are_refused_with_both_places(handlers: list[Handler]) -> None:
    with pytest.raises(ConfigError, match=r"'[abx]' has two handlers: tests.*run and tests.*run"):
        Registry(handlers)


@pytest.mark.parametrize("name", ["", "A", "a b", "ä", "a/b", "x" * 101, "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    for bad in (handler(name), handler("good", name)):
        with pytest.raises(ConfigError, match="rename it"):
            Registry([bad])


def test_the_same_handler_twice_is_one() -> None:
    one = handler("a", "b")

    assert list(Registry([one, one])) == [one]


def test_two_resources_of_a_name_are_refused() -> None:
    async def database(settings: Settings) -> AsyncIterator[str]:
        yield settings.mongodb_url

    def opened(name: str) -> Resource:
        return Resource(name, database)

    one = opened("db")
    assert Registry([], [one, one]).resources == {"db": one}
    with pytest.raises(ConfigError, match="'db'"):
        Registry([], [one, opened("db")])


# ---- loading ---------------------------------------------------------------------------------------------------------

ONE = '''
@actor("{name}", aliases=["Old {name}"])
async def run(body: dict, ctx: Context) -> None:
    """Do it."""
'''


def test_modules_are_loaded_with_their_handlers_and_resources(write: Write) -> None:
    first = write(
        "verger_test_first",
        ONE.format(name="first") + '\n@resource("db")\nasync def db(settings):\n    yield 1\n',
    )
    second = write("verger_test_second", ONE.format(name="second"))

    registry = load([first, second])

    assert [each.task_type for each in registry] == ["first", "second"]
    assert registry.find("old first") is registry.get("first")
    assert list(registry.resources) == ["db"]
    assert registry.get("first").wants_context


def test_a_handler_that_another_module_imports_is_still_one(write: Write) -> None:
    first = write("verger_test_home", ONE.format(name="home"))
    second = write("verger_test_user", "from verger_test_home import run\nfrom verger_test_home import run as other\n")

    assert len(load([first, second])) == 1
    assert len(load([second])) == 1


def test_two_modules_with_a_handler_of_one_type_are_refused(write: Write) -> None:
    names = [write(f"verger_test_twin{number}", ONE.format(name="twin")) for number in range(2)]

    with pytest.raises(ConfigError, match=r"verger_test_twin0\.run and verger_test_twin1\.run"):
        load(names)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('@actor("x", retries=5)\nasync def run(body: dict): ...', "retries"),
        ('@actor("x", max_attempts=0)\nasync def run(body: dict): ...', "max_attempts is 0"),
        ('@actor("x", concurrency=0)\nasync def run(body: dict): ...', "concurrency is 0"),
        ('@actor("x", timeout="soon")\nasync def run(body: dict): ...', "write 90s"),
        ('@actor("x")\nasync def run(): ...', "takes"),
        ('@actor("x")\nasync def run(body): ...', "annotate"),
        ('@actor("x")\nasync def run(body: int): ...', "annotate"),
        ('@resource("x")\ndef run(settings): ...', "async generator"),
        ("this is no python", "SyntaxError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("raise RuntimeError('boom')", "boom"),
        ("", "no @actor handler"),
    ],
)
def test_a_module_that_cannot_serve_is_refused_with_its_name_and_the_reason(
    write: Write, text: str, problem: str
) -> None:
    name = write("verger_test_bad", text)

    with pytest.raises(ConfigError) as caught:
        load([name])

    assert "VERGER_ACTORS" in str(caught.value)
    assert name in str(caught.value)
    assert problem in str(caught.value)


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"VERGER_ACTORS names 'nothing\.there', which cannot be imported"):
        load(["nothing.there"])
