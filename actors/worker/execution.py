"""One run as a pipeline: validate, perform within the time limit, classify. Whatever happens ends as an outcome."""

import asyncio
import random
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from actors.worker.context import Context
from actors.worker.run import Run, Stop
from schemas.outcome import Cancelled, Completed, Discarded, Failed, Outcome, Released, Snoozed
from schemas.task import TaskError
from service.errors import PayloadRefused
from service.payload import check_size, check_storable, safe_text
from service.signals import Discard, Retry, Signal, Snooze

_RNG = random.Random()
MESSAGE_LIMIT = 2000
TRACEBACK_LIMIT = 8000
REASON_LIMIT = 500


async def execute(run: Run, context: Context, threads: Executor, result_limit: int) -> Outcome | None:
    """Run the handler; the caller stops it when its time is up. None: nothing is to be written, for the claim is
    lost."""
    try:
        arguments = _arguments(run, context)
    except ValidationError as error:
        return _invalid_body(error, context.now())
    try:
        result = await _perform(run, arguments, threads)
    except asyncio.CancelledError as error:
        return stopped(run, error, context.now())
    except Retry as signal:
        delay = signal.after if signal.after is not None else _delay(run)
        return Failed(describe(signal, context.now()), delay, reason=_reason(signal) or "asked for")
    except Snooze as signal:
        now = context.now()
        return Snoozed(signal.until or now + (signal.after or timedelta()), _reason(signal))
    except Discard as signal:
        return Discarded(_reason(signal) or "discarded")
    except (Exception, SystemExit) as error:
        # The handler is a stranger: what it raises, even sys.exit, is the failure of one run and not of the worker.
        if run.stopped is not None:
            # Told to stop, it left by a way of its own.
            return stopped(run, error, context.now())
        hopeless = isinstance(error, run.handler.retry.non_retryable)
        return Failed(
            describe(error, context.now()), None if hopeless else _delay(run), "non_retryable" if hopeless else None
        )
    return _completed(result, result_limit)


def _arguments(run: Run, context: Context) -> tuple[Any, ...]:
    model = run.handler.body_model
    body: Any = run.task.task_body if model is None else model.model_validate(run.task.task_body)
    return (body, context) if run.handler.wants_context else (body,)


async def _perform(run: Run, arguments: tuple[Any, ...], threads: Executor) -> Any:
    if run.handler.is_async:
        return await run.handler.function(*arguments)
    return await _in_thread(threads, run.handler.function, arguments)


async def _in_thread(threads: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """A thread cannot be interrupted: when the run is told to stop, its slot is held until the thread has ended."""
    # With the context of the run: its lines and its spans belong to it there too.
    call = partial(copy_context().run, _call, function, arguments)
    work = asyncio.get_running_loop().run_in_executor(threads, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # It sees ``ctx.cancel_requested``; what it returns is of no interest any more. A second cancellation is that
        # of the closing loop, which must not wait for it.
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()
        raise


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:
        # A future cannot hold it, and would never be done.
        raise RuntimeError("the handler raised StopIteration") from error


def stopped(run: Run, error: BaseException, now: datetime) -> Outcome | None:
    """The outcome of a run that was interrupted; None: its claim is lost."""
    match run.stopped:
        case Stop.LOST:
            return None
        case Stop.CANCEL:
            return Cancelled("cancel requested")
        case Stop.SHUTDOWN:
            return Released("the worker was stopped")
        case Stop.TIMEOUT:
            return timed_out(run, now)
        case None:
            # The handler cancelled itself, or lost something it awaited.
            return Failed(describe(error, now), _delay(run))


def timed_out(run: Run, now: datetime) -> Failed:
    """The outcome of a run whose time is up."""
    message = f"the run exceeded its limit of {run.task.timeout_seconds:g} s"
    return Failed(TaskError(type="Timeout", message=message, fingerprint="timeout", at=now), _delay(run), "timeout")


def _delay(run: Run) -> timedelta:
    return run.handler.retry.delay(run.task.retry_count, _RNG)


def _completed(result: Any, limit: int) -> Completed:
    """The work is done, so a result that cannot be kept does not undo it: it is left out, and the history says why."""
    if result is None:
        return Completed()
    try:
        plain = result.model_dump(mode="json") if isinstance(result, BaseModel) else to_jsonable_python(result)
        check_storable(plain, "result")
        check_size(plain, "result", limit)
    except (PayloadRefused, PydanticSerializationError, ValueError, RecursionError) as error:
        return Completed(note=safe_text(f"result not kept: {error}")[:REASON_LIMIT])
    return Completed(plain)


def _invalid_body(error: ValidationError, now: datetime) -> Failed:
    problems = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'taskBody'}: {problem['msg'].lower()}"
        for problem in error.errors(include_url=False, include_input=False)[:5]
    )
    text = safe_text(problems)[:MESSAGE_LIMIT]
    return Failed(TaskError(type="InvalidBody", message=text, fingerprint="invalid_body", at=now), None, "invalid_body")


def describe(error: BaseException, now: datetime) -> TaskError:
    """An exception as the store keeps it, bounded; nothing in it can fail to encode."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
    kind = type(error).__qualname__
    text = safe_text("".join(_format(error, error.__traceback__)))
    return TaskError(
        type=safe_text(kind)[:200],
        message=safe_text(_message(error))[:MESSAGE_LIMIT],
        traceback=text[-TRACEBACK_LIMIT:] if frames else None,
        fingerprint=sha256(f"{kind}@{place}".encode("utf-8", "replace")).hexdigest()[:16],
        place=safe_text(place)[:200] or None,
        at=now,
    )


def _format(error: BaseException, trace: TracebackType | None) -> list[str]:
    try:
        return traceback.format_exception(type(error), error, trace, limit=-30)
    except Exception as failure:
        # A stranger's __str__ may raise.
        return [f"{type(error).__qualname__} (could not be formatted: {type(failure).__name__})"]


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:
        return f"(its text could not be read: {type(failure).__name__})"


def _reason(signal: Signal) -> str | None:
    return safe_text(str(signal))[:REASON_LIMIT] or None
