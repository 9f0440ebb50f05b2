"""Traces by OpenTelemetry's API: from the publish over the claim to the run, linked by the W3C header ``traceparent``.

An exporter is the business of who runs this: his SDK is set up by a module of VERGER_ACTORS, or by
``opentelemetry-instrument``. Without one no span is made, and a ``traceparent`` is handed on as it came.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from schemas.outcome import Failed, Outcome
from schemas.task import Task
from service.version import VERSION

HEADER = "traceparent"
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_PROPAGATOR = TraceContextTextMapPropagator()
_NO_SDK = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_TRACER = trace.get_tracer("verger", VERSION)


def read_traceparent(value: object) -> str | None:
    """What a header says; None when it is not what W3C says it should be: then the trace begins here."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value if isinstance(value, str) and _FORM.fullmatch(value) else None


def trace_id_of(traceparent: str | None) -> str | None:
    """The part by which traces are looked up."""
    return traceparent[3:35] if traceparent is not None and _FORM.fullmatch(traceparent) else None


def recording() -> bool:
    """Whether there is an SDK. Costs about a microsecond: to be asked for a batch, not for a task."""
    return type(trace.get_tracer_provider()) not in _NO_SDK


def current() -> str | None:
    """The ``traceparent`` of the span that is active here."""
    return _traceparent(trace.get_current_span())


def _traceparent(span: Span) -> str | None:
    said = span.get_span_context()
    if not said.is_valid:
        return None
    return f"00-{said.trace_id:032x}-{said.span_id:016x}-{int(said.trace_flags):02x}"


def _context_of(traceparent: str | None) -> context.Context:
    """That of a sender; without one, no span is the parent."""
    return _PROPAGATOR.extract({HEADER: traceparent} if traceparent else {}, context.Context())


# ---- publish -------------------------------------------------------------------------------------


def publishing(task_types: Sequence[str]) -> AbstractContextManager[str | None]:
    """The span of a publish, of one task or of many; gives the ``traceparent`` of the new tasks.

    Without an SDK it is that of the active span; None: none is active.
    """
    return _publishing(task_types) if recording() else nullcontext(current())


@contextmanager
def _publishing(task_types: Sequence[str]) -> Iterator[str | None]:
    kinds = sorted(set(task_types))
    attributes: Attributes = {"verger.task.types": kinds, "verger.tasks": len(task_types)}
    name = f"publish {kinds[0]}" if len(kinds) == 1 else "publish"
    with _TRACER.start_as_current_span(name, kind=SpanKind.PRODUCER, attributes=attributes) as span:
        yield _traceparent(span)


def published(task_type: str) -> str | None:
    """The span of a publish that is under way with others, which have traces of their own; None without an SDK."""
    if not recording():
        return None
    span = _TRACER.start_span(f"publish {task_type}", context.Context(), kind=SpanKind.PRODUCER)
    span.end()
    return _traceparent(span)


# ---- claim and run -------------------------------------------------------------------------------


def now_ns() -> int:
    """When a claim begins."""
    return time.time_ns()


def claimed(task: Task, begun_ns: int) -> Span:
    """The span of a claim, which began then and is done."""
    claim = _TRACER.start_span(
        f"claim {task.task_type}",
        _context_of(task.traceparent),
        kind=SpanKind.CLIENT,
        attributes=_described(task),
        start_time=begun_ns,
    )
    claim.end()
    return claim


def started(task: Task, claim: Span) -> Span:
    """The span of a run, which begins now."""
    inside = trace.set_span_in_context(claim, context.Context())
    return _TRACER.start_span(f"run {task.task_type}", inside, kind=SpanKind.CONSUMER, attributes=_described(task))


def _described(task: Task) -> dict[str, str | int]:
    return {"verger.task.id": task.id, "verger.task.type": task.task_type, "verger.task.attempt": task.attempt}


def enter(span: Span) -> None:
    """Make it the active one for the rest of this asyncio task."""
    context.attach(trace.set_span_in_context(span))


def ended(span: Span, outcome: Outcome | None) -> None:
    """End the span of a run. Its attributes hold no text of the handler's: that may be anything."""
    span.set_attribute("verger.outcome", type(outcome).__name__.lower() if outcome is not None else "lost")
    if isinstance(outcome, Failed):
        span.set_attribute("error.type", outcome.error.type)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def trace_id(span: Span) -> str:
    """As a line of the log shows it."""
    return f"{span.get_span_context().trace_id:032x}"
