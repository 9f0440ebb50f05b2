"""``@actor`` and ``@resource``: how an author declares handlers and what they share."""

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from schemas.duration import parse_duration
from service.errors import ConfigError
from service.registry import DEFAULT_MAX_ATTEMPTS, Handler, Resource, fold
from service.retry import RetryPolicy
from service.settings import Settings

Span = timedelta | str | float
"""A timedelta, a text such as ``"30m"``, or seconds."""


def actor(
    task_type: str,
    *,
    max_attempts: int | None = DEFAULT_MAX_ATTEMPTS,
    timeout: Span = "30m",
    concurrency: int | None = None,
    unique: bool = False,
    aliases: Sequence[str] = (),
    delays: Sequence[Span] = (),
    backoff_base: Span = 2,
    backoff_factor: float = 2.0,
    backoff_cap: Span = "1h",
    jitter: bool = True,
    non_retryable: Sequence[type[BaseException]] = (),
) -> Callable[[Callable[..., Any]], Handler]:
    """Make a function the handler of a task type: ``(body)`` or ``(body, ctx)``, async or plain (run in a thread).

    ``body`` is annotated with a pydantic model, or with ``dict``. What the function returns is JSON, and is kept as the
    result.

    Args:
        task_type: ``[a-z0-9_.-]{1,100}``; also the routing key.
        max_attempts: Runs at most; None: for ever.
        timeout: Hard limit of one run.
        concurrency: Slots in one worker; None: ``VERGER_CONCURRENCY``, and at most 8 for a plain function.
        unique: While one with the same body is pending or running, another is not created.
        aliases: Other names that reach it; spaces and capitals are folded.
        delays: Waits between attempts, used as they are, the last one repeating; else exponential backoff:
        backoff_base, backoff_factor, backoff_cap, jitter: ``min(cap, base * factor ** failures)``, drawn uniformly from
            zero up to that with ``jitter``.
        non_retryable: Exceptions after which no attempt can help: a dead letter at once.

    Raises:
        ConfigError: the function's signature or an option does not fit.
    """
    if max_attempts is not None and max_attempts < 1:
        raise ConfigError(f"@actor({task_type!r}): max_attempts is {max_attempts}; give 1 or more, or None")
    if concurrency is not None and concurrency < 1:
        raise ConfigError(f"@actor({task_type!r}): concurrency is {concurrency}; give 1 or more")
    try:
        policy = RetryPolicy(
            base=_span(backoff_base),
            factor=backoff_factor,
            cap=_span(backoff_cap),
            jitter=jitter,
            delays=tuple(_span(delay) for delay in delays),
            non_retryable=tuple(non_retryable),
        )
        limit = _span(timeout)
    except ValueError as error:
        raise ConfigError(f"@actor({task_type!r}): {error}") from None

    if limit <= timedelta():
        raise ConfigError(f"@actor({task_type!r}): timeout is {limit}; give more than nothing")
    if min((policy.base, policy.cap, *policy.delays)) < timedelta() or policy.factor < 1:
        raise ConfigError(f"@actor({task_type!r}): delays are not negative, and backoff_factor is 1 or more")

    def declare(function: Callable[..., Any]) -> Handler:
        model, wants_context = _signature(task_type, function)
        return Handler(
            task_type=task_type,
            function=function,
            body_model=model,
            wants_context=wants_context,
            is_async=inspect.iscoroutinefunction(function),
            max_attempts=max_attempts,
            retry=policy,
            timeout=limit,
            concurrency=concurrency,
            unique=unique,
            aliases=tuple(dict.fromkeys(name for name in map(fold, aliases) if name != task_type)),
        )

    return declare


def resource(name: str) -> Callable[[Callable[[Settings], AsyncIterator[Any]]], Resource]:
    """Make an async generator a resource: what it yields is ``ctx.resources[name]`` for all handlers of the worker.

    It is opened when a worker starts and resumed, to clean up, when the worker stops.
    """

    def declare(function: Callable[[Settings], AsyncIterator[Any]]) -> Resource:
        if not inspect.isasyncgenfunction(function):
            raise ConfigError(f"@resource({name!r}) needs an async generator: async def …(settings): yield …")
        return Resource(name, function)

    return declare


def _span(value: Span) -> timedelta:
    if isinstance(value, str):
        return parse_duration(value)
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _signature(task_type: str, function: Callable[..., Any]) -> tuple[type[BaseModel] | None, bool]:
    """The body's model and whether a context is wanted."""
    parameters = list(inspect.signature(function).parameters.values())
    if not 1 <= len(parameters) <= 2 or any(
        p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters
    ):
        raise ConfigError(f"@actor({task_type!r}): the handler takes (body) or (body, ctx)")
    annotation = typing.get_type_hints(function).get(parameters[0].name)
    if annotation is dict or typing.get_origin(annotation) is dict:
        return None, len(parameters) == 2
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation, len(parameters) == 2
    raise ConfigError(
        f"@actor({task_type!r}): annotate {parameters[0].name!r} with a pydantic model or dict, not {annotation!r}"
    )
