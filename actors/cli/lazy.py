"""Groups of commands that are imported one by one: a calculation must not wait for the drivers of servers."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


class Commands(Mapping[str, Any]):
    """Name → command, made when it is looked up. What cannot be found is not there."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """``places``: name → ``module:attribute``, a function or a ``typer.Typer``."""
        self._places = places

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self._places[name].partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise KeyError(name) from None  # a part that this installation does not have
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False, rich_markup_mode="markdown")
            found.command(name)(function)
        command = typer.main.get_command(found)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class LazyGroup(TyperGroup):
    """A group whose commands come from ``places``."""

    places: Mapping[str, str] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = Commands(self.places)

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in self.places if self.get_command(ctx, name) is not None]
