"""Traces, from the publish over the claim to the run, with the SDK of OpenTelemetry and without."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from actors.testing import Verger, sandbox
from schemas.schedule import Overlap, Schedule
from schemas.task import Task
from service import traces
from service.broker.port import Publication
from service.client import NewTask
from service.traces import read_traceparent

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID = PARENT[3:35]


@pytest.fixture
async def verger(mongo_url: str) -> AsyncIterator[Verger]:
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url) as verger:
        yield verger


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An SDK for this test alone; the API lets a process set up one, once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr(traces, "_TRACER", provider.get_tracer("verger"))
    yield exporter
    provider.shutdown()


async def foreign(verger: Verger, task_type: str, task_id: str, **headers: str) -> Task:
    """As a publisher of no library of ours sends it."""
    body = f'{{"id": "{task_id}", "taskBody": {{"kind": "enqueue"}}}}'.encode()
    await verger.app.broker.publish([Publication(task_type, body, headers)])
    async with asyncio.timeout(20):
        while await verger.app.store.tasks.get(task_id) is None:
            await asyncio.sleep(0.01)
    return await verger.client.wait(task_id)


def named(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    (span,) = (span for span in spans if span.name == name)
    return span


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


# ---- without an SDK ------------------------------------------------------------------------------


async def test_the_header_of_a_message_is_kept_and_handed_on_by_ctx_enqueue(verger: Verger) -> None:
    first = await foreign(verger, "test.odd", "first", traceparent=PARENT)
    second = await verger.client.wait(first.result)

    assert (first.traceparent, second.traceparent) == (PARENT, PARENT)


@pytest.mark.parametrize(
    "header",
    ["", "00-ab", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01"],
)
async def test_a_header_that_is_none_is_left_out_and_the_task_runs(verger: Verger, header: str) -> None:
    task = await foreign(verger, "test.noop", "odd", traceparent=header)

    assert task.status.finished
    assert task.traceparent is None


def test_only_what_w3c_says_is_a_traceparent() -> None:
    assert read_traceparent(PARENT) == read_traceparent(PARENT.encode()) == PARENT
    for value in (None, 7, PARENT.upper(), PARENT[:-1], PARENT + "-", b"\xff" * 55, f"{PARENT[:36]}{'0' * 16}-01"):
        assert read_traceparent(value) is None


async def test_a_caller_may_say_the_trace_and_without_one_there_is_none(verger: Verger) -> None:
    given = await verger.client.enqueue("test.noop", {}, traceparent=PARENT)
    none = await verger.client.enqueue("test.noop", {})
    many = await verger.client.enqueue_many([NewTask("test.noop", traceparent=PARENT), NewTask("test.noop")])

    assert [task.traceparent for task in (given, none, *many)] == [PARENT, None, PARENT, None]
    assert not traces.recording()


# ---- with an SDK ---------------------------------------------------------------------------------


async def test_publish_claim_and_run_are_one_trace(verger: Verger, exporter: InMemorySpanExporter) -> None:
    with trace.get_tracer("web").start_as_current_span("request"):
        task = await verger.client.enqueue("test.odd", {"kind": "enqueue"})
    await verger.run_until_idle()

    spans = exporter.get_finished_spans()
    request, publish = named(spans, "request"), named(spans, "publish test.odd")
    claim, run = named(spans, "claim test.odd"), named(spans, "run test.odd")
    onward, last = named(spans, "publish test.noop"), named(spans, "run test.noop")
    assert {ids(span)[0] for span in (request, publish, claim, run, onward, last)} == {ids(request)[0]}
    assert parent_of(publish) == ids(request)[1]
    assert parent_of(claim) == ids(publish)[1]
    assert parent_of(run) == ids(claim)[1]
    assert parent_of(onward) == ids(run)[1]  # made by the handler: its span is the active one
    assert task.traceparent is not None
    assert task.traceparent.startswith(f"00-{ids(publish)[0]:032x}-{ids(publish)[1]:016x}-")
    assert run.attributes is not None
    assert run.attributes["verger.task.id"] == task.id
    assert run.attributes["verger.outcome"] == "completed"
    assert claim.start_time is not None and claim.end_time is not None and run.start_time is not None
    assert claim.start_time <= claim.end_time <= run.start_time


async def test_a_run_continues_the_trace_of_a_message_from_outside(
    verger: Verger, exporter: InMemorySpanExporter
) -> None:
    await foreign(verger, "test.noop", "traced", traceparent=PARENT)

    spans = exporter.get_finished_spans()
    assert parent_of(named(spans, "claim test.noop")) == int(PARENT[36:52], 16)
    assert f"{ids(named(spans, 'run test.noop'))[0]:032x}" == TRACE_ID


async def test_a_failed_run_is_an_error_and_says_nothing_of_what_the_handler_said(
    verger: Verger, exporter: InMemorySpanExporter
) -> None:
    task = await verger.client.enqueue("test.fails", {}, max_attempts=1)
    await verger.run_until_idle()

    run = named(exporter.get_finished_spans(), "run test.fails")
    assert run.status.status_code is StatusCode.ERROR
    assert run.attributes is not None
    assert run.attributes["error.type"] == "RuntimeError"
    assert "it never works" not in run.to_json()
    assert (await verger.client.get(task.id)).traceparent is not None


async def test_the_span_of_a_run_in_a_thread_is_active_there(verger: Verger, exporter: InMemorySpanExporter) -> None:
    await verger.client.enqueue("test.threaded", {"seconds": 0})
    await verger.run_until_idle()

    spans = exporter.get_finished_spans()
    assert parent_of(named(spans, "in the thread")) == ids(named(spans, "run test.threaded"))[1]


async def test_each_fire_begins_a_trace(verger: Verger, exporter: InMemorySpanExporter) -> None:
    now = verger.clock.now()
    fires = [
        Schedule(
            id=name, task_type="test.noop", schedule="@every 1h", overlap=Overlap.ALLOW, next_fire_at=now, revision=0
        )
        for name in ("a", "b")
    ]
    await verger.app.store.schedules.write(fires)
    verger.app.wake()
    await verger.run_until_idle()

    spans = exporter.get_finished_spans()
    published = [span for span in spans if span.name == "publish test.noop"]
    runs = [span for span in spans if span.name == "run test.noop"]
    assert len(published) == len(runs) == 2
    assert {ids(span)[0] for span in published} == {ids(span)[0] for span in runs}
    assert len({ids(span)[0] for span in runs}) == 2
