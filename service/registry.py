"""Task types and their handlers: what ``@actor`` makes and what a process loads."""

import importlib
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from schemas.task import TASK_TYPE
from service.errors import ConfigError, NotFound
from service.retry import RetryPolicy

if TYPE_CHECKING:
    from service.settings import Settings

DEFAULT_MAX_ATTEMPTS = 8
DEFAULT_TIMEOUT = timedelta(minutes=30)
INTERNAL_PREFIX = "verger."
"""How the task types begin that Verger itself brings."""


def fold(name: str) -> str:
    """A task type from a name as people write it: lower case, anything else becomes ``_``."""
    return re.sub(r"[^a-z0-9_.-]+", "_", name.strip().lower())


@dataclass(frozen=True, eq=False)
class Handler:
    """A function and the rules under which it runs. Calling it calls the function, so that a test can."""

    task_type: str
    function: Callable[..., Any]
    body_model: type[BaseModel] | None
    """None: the handler takes the body as a dict."""
    wants_context: bool
    is_async: bool
    max_attempts: int | None = DEFAULT_MAX_ATTEMPTS
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: timedelta = DEFAULT_TIMEOUT
    concurrency: int | None = None
    """Slots in one worker; None: the setting."""
    unique: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every routing key that reaches it."""
        return (self.task_type, *self.aliases)

    @property
    def internal(self) -> bool:
        """One of Verger's own."""
        return self.task_type.startswith(INTERNAL_PREFIX)

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Resource:
    """Something handlers share: opened when a worker starts, closed when it stops, found in ``ctx.resources``."""

    name: str
    open: "Callable[[Settings], AsyncIterator[Any]]"


class Registry:
    """The handlers and resources of a process; immutable once built."""

    def __init__(self, handlers: Iterable[Handler] = (), resources: Iterable[Resource] = ()) -> None:
        self._by_name: dict[str, Handler] = {}
        self._handlers: dict[str, Handler] = {}
        self.resources: dict[str, Resource] = {}
        for handler in handlers:
            self._add(handler)
        for resource in resources:
            if self.resources.setdefault(resource.name, resource) is not resource:
                raise ConfigError(f"two resources are called {resource.name!r}; rename one")

    def _add(self, handler: Handler) -> None:
        if self._handlers.get(handler.task_type) is handler:
            return
        for name in handler.names:
            if not TASK_TYPE.fullmatch(name):
                raise ConfigError(f"task type {name!r} is not {TASK_TYPE.pattern}; rename it")
            other = self._by_name.get(name)
            if other is not None:
                raise ConfigError(
                    f"task type {name!r} has two handlers: {_where(other.function)} and {_where(handler.function)}"
                )
            self._by_name[name] = handler
        self._handlers[handler.task_type] = handler

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    def find(self, name: str) -> Handler | None:
        """The handler of a task type or of one of its aliases, as people write it."""
        return self._by_name.get(name) or self._by_name.get(fold(name))

    def get(self, name: str) -> Handler:
        """As ``find``. Raises NotFound, with what there is."""
        found = self.find(name)
        if found is None:
            known = ", ".join(sorted(self._handlers)) or "none is loaded: set VERGER_ACTORS"
            raise NotFound(f"no handler for task type {name!r}; known: {known}")
        return found


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def load(modules: Iterable[str]) -> Registry:
    """Import the modules and collect what they hold: a handler or resource that a module names, its own or imported.

    Raises:
        ConfigError: a module cannot be imported or holds none, or two handlers claim a name.
    """
    handlers: list[Handler] = []
    resources: list[Resource] = []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            # Whatever a stranger's module raises at import is a fault of the configuration.
            raise ConfigError(f"VERGER_ACTORS names {name!r}, which cannot be imported: {error!r}") from error
        found = [value for value in vars(module).values() if isinstance(value, Handler)]
        if not found:
            raise ConfigError(f"VERGER_ACTORS names {name!r}, which holds no @actor handler")
        handlers += found
        resources += [value for value in vars(module).values() if isinstance(value, Resource)]
    return Registry(handlers, resources)
