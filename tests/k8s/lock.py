"""``requirements.lock``: which distributions an image may hold, and which versions of them."""

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
HEAD = "# What images are made of: the versions that the tests have run with. Written by scripts/lock.\n"
EXTRAS = ("vectors", "embedded")
"""Of Verger's, those that an image may be built with."""
BUILD = {"setuptools": "80.9.0"}
"""What makes Verger's own wheel; it is in no environment."""


def needed() -> dict[str, str]:
    """Name → version of all the way down, as installed here."""
    found = dict(BUILD)
    left, seen = list(wanted()), set()
    while left:
        requirement = left.pop()
        if str(requirement) not in seen:
            seen.add(str(requirement))
            found[canonicalize_name(requirement.name)] = version(requirement.name)
            left += _here(requires(requirement.name) or [], requirement.extras)
    return found


def wanted() -> Iterator[Requirement]:
    """What Verger itself asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)):
        yield from _here(group, ())


def _here(texts: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    """Those that this platform asks for."""
    for text in texts:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield requirement


def locked() -> dict[str, str]:
    """Name → version, as the file says."""
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    return {name: number for name, _, number in (line.partition("==") for line in lines)}
