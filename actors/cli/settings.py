"""``verger settings``: what is set; and the page that documents it."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from actors.cli.options import Json
from actors.cli.output import print_json, table
from schemas.duration import exact_duration
from service.settings import PREFIX, Settings, hide_password, load_settings

HEAD = """# Configuration

Verger is configured by environment variables. They are read once, at the start; a wrong value or an unknown `VERGER_`
variable ends the start with a sentence that names it. An empty variable counts as not set. Durations are written `90s`,
`10m`, `1h30m`, `7d` or as ISO 8601 (`PT10M`).

`verger settings` shows what is in force; `verger doctor` checks it.

This page is made from the settings: `verger settings --markdown > docs/configuration.md`.

| Variable | Default | Meaning |
|---|---|---|"""


def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/configuration.md instead.")] = False,
    json: Json = False,
) -> None:
    """Show every setting, its value, and whether it was set. Passwords are hidden."""
    if markdown:
        print(page(), end="")
        return
    found = load_settings()
    values = {name: getattr(found, name) for name in _names()}
    values["api_keys"] = tuple(f"{key.rpartition(':')[0]}:***" for key in found.api_keys)
    rows = [(PREFIX + name.upper(), _shown(value), name in found.model_fields_set) for name, value in values.items()]
    if json:
        print_json({"settings": [{"name": name, "value": value, "set": is_set} for name, value, is_set in rows]})
    else:
        table(
            ("VARIABLE", "VALUE", "FROM"),
            [(n, v, "environment" if is_set else "default") for n, v, is_set in rows],
            fold=1,
        )


def page() -> str:
    """The text of docs/configuration.md."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(info)} | {' '.join([info.description or '', *_limits(info)])} |"
        for name, info in Settings.model_fields.items()
    ]
    return "\n".join([HEAD, *rows, ""])


def _names() -> Iterable[str]:
    return Settings.model_fields


def _default(info: FieldInfo) -> str:
    shown = _shown(info.default)
    return f"`{shown}`" if shown else "none"


def _limits(info: FieldInfo) -> list[str]:
    low = next((limit.ge for limit in info.metadata if isinstance(limit, Ge)), None)
    high = next((limit.le for limit in info.metadata if isinstance(limit, Le)), None)
    if low is not None and high is not None:
        return [f"From {low} to {high}."]
    return [f"At least {low}."] if low is not None else []


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, timedelta):
        return exact_duration(value)
    if isinstance(value, tuple):
        return ",".join(value)
    text = str(value)
    return hide_password(text) if "://" in text and "@" in text else text
