"""The commands of docs/permissions.md, taken out of the page: what the tests run is what a reader would."""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^db\.adminCommand\((.*?)\)$", re.MULTILINE | re.DOTALL)


def rabbitmq_commands() -> str:
    """The block for a shell."""
    (found,) = [text for kind, text in _blocks() if kind == "sh" and text.startswith("rabbitmqctl ")]
    return found


def mongodb_commands(password: str) -> list[dict[str, Any]]:
    """What mongosh would send, each prompt for a password answered."""
    (script,) = [text for kind, text in _blocks() if kind == "js" and "passwordPrompt" in text]
    found = [text.replace("passwordPrompt()", json.dumps(password)) for text in _COMMAND.findall(script)]
    assert len(found) == script.count("db.")
    return [json.loads(text) for text in found]


def certificate_user() -> tuple[str, dict[str, Any]]:
    """The database and the command that make a user of a client certificate."""
    (script,) = [text for kind, text in _blocks() if kind == "js" and "$external" in text]
    (found,) = re.findall(r'^db\.getSiblingDB\("(.*)"\)\.runCommand\((.*)\)$', script, re.MULTILINE)
    return found[0], json.loads(found[1])


def kubernetes_patches() -> str:
    """The patches of an overlay."""
    (found,) = [text for kind, text in _blocks() if kind == "yaml"]
    return found


def _blocks() -> list[tuple[str, str]]:
    return _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
