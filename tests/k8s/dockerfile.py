"""The Dockerfile, read as far as ours goes."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = ("FROM", "ARG", "ENV", "LABEL", "WORKDIR", "COPY", "RUN", "EXPOSE", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD")


@dataclass
class Stage:
    """One ``FROM`` and what follows."""

    image: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Instruction and the rest of its line."""

    def said(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.steps if instruction == word]


@dataclass
class Dockerfile:
    arguments: dict[str, str]
    """Those before the first stage."""
    stages: list[Stage]

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    @property
    def entrypoint(self) -> list[str]:
        [said] = self.final.said("ENTRYPOINT")
        return [str(word) for word in json.loads(said)]

    def environment(self, given: Mapping[str, str], only: str = "") -> dict[str, str]:
        """What ``ENV`` of the last stage sets, for names that begin with ``only``."""
        found = pairs(self.final, "ENV", given)
        return {name: value for name, value in found.items() if name.startswith(only)}


def pairs(stage: Stage, word: str, given: Mapping[str, str]) -> dict[str, str]:
    """The ``NAME=value`` of all its ENV, ARG or LABEL lines."""
    found: dict[str, str] = {}
    for rest in stage.said(word):
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            found[name] = expanded(value, {**given, **found})
    return found


def expanded(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ""), text)


def read(path: Path) -> Dockerfile:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    file = Dockerfile({}, [])
    for line in lines:
        word, _, rest = line.partition(" ")
        if word not in WORDS:
            raise ValueError(f"the Dockerfile says {line!r}, which the tests do not know")
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            file.stages.append(Stage(image.strip(), name.strip()))
        elif not file.stages:
            name, _, value = rest.partition("=")
            file.arguments[name] = value
        else:
            file.stages[-1].steps.append((word, " ".join(rest.split())))
    return file


DOCKERFILE = read(ROOT / "Dockerfile")
