"""memories.summarize: clusters that have no summary, or have outgrown theirs; and the summarisers."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from actors.maintenance.database import Database, Document
from actors.maintenance.indexes import ensure_indexes
from actors.memories.collections import Collections
from actors.memories.indexes import MEMBERS, OWN, clusters, memories
from actors.memories.summariser.extractive import Extractive
from actors.memories.summariser.ollama import Ollama
from actors.memories.summariser.port import SummariserRefused, SummariserUnavailable
from actors.memories.summarize import SummarizeParams, due_clusters, members_of
from schemas.task import TaskStatus
from tests.actors.families import Family, stages
from tests.actors.memories.ollama_server import ollama_server

SUMMARIZE = "memories.summarize"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = frozenset({"summaryAt"})


def member(cluster: str, number: int, text: Any = None, tenant: str = "acme", **fields: Any) -> Document:
    return {
        "_id": f"{cluster}-{number:03}",
        "tenantId": tenant,
        "clusterId": cluster,
        "text": f"The harbour of {cluster} sees boat {number} leave with the tide." if text is None else text,
        "status": "active",
        "createdAt": NOON + timedelta(minutes=number),
        **fields,
    }


async def add(memory: Database, name: str, count: int, tenant: str = "acme", **fields: Any) -> None:
    await memory.clusters.insert_one({"_id": name, "tenantId": tenant, "memberCount": count, **fields})
    await memory.memories.insert_many([member(name, number, tenant=tenant) for number in range(count)])


async def summarised(memory: Database) -> list[str]:
    return [each["_id"] async for each in memory.clusters.find({"summary": {"$ne": None}}, sort=[("_id", 1)])]


async def test_due_clusters_are_summarised_and_unchanged_ones_are_skipped(family: Family, memory: Database) -> None:
    await add(memory, "first", 10)
    await add(memory, "grown", 15, summary="old", summarisedCount=10, summaryHash="another")
    await add(memory, "young", 9)
    await add(memory, "settled", 14, summary="kept", summarisedCount=10)
    await memory.clusters.insert_one({"_id": "ghost", "tenantId": "acme", "memberCount": 50})
    await memory.memories.insert_many(
        [member("first", 90, "", status="active"), member("first", 91, None, status="purged")]
    )

    result = await family.run("auto_summarization_job", {"maxChars": 200})

    assert {name: count for name, count in result.items() if count} == {"scanned": 3, "summarised": 2, "empty": 1}
    assert await summarised(memory) == ["first", "grown", "settled"]
    first = await memory.clusters.find_one({"_id": "first"}) or {}
    assert "harbour of first" in first["summary"]
    assert len(first["summary"]) <= 200
    assert (first["summarisedCount"], first["summaryModel"]) == (10, "extractive-1")

    # The count grew, the members did not: no summary is made, and it is not due again.
    await memory.clusters.update_one({"_id": "first"}, {"$set": {"memberCount": 15}})
    result = await family.run(SUMMARIZE)
    assert {name: count for name, count in result.items() if count} == {
        "scanned": 2, "skipped_unchanged": 1, "empty": 1,
    }  # fmt: skip
    assert (await family.run(SUMMARIZE))["scanned"] == 1
    assert (await memory.clusters.find_one({"_id": "first"}) or {})["summaryAt"] == first["summaryAt"]


async def test_nothing_is_there(family: Family) -> None:
    assert not any((await family.run(SUMMARIZE)).values())


async def test_a_changed_member_is_noticed_and_a_large_cluster_is_summarised_from_a_steady_sample(
    family: Family, memory: Database
) -> None:
    async with ollama_server() as server:
        options: dict[str, Any] = {"summariser": "ollama", "ollama_url": server.url, "summary_model": "tiny"}
        await add(memory, "big", 40)
        await family.run(SUMMARIZE, {"sample": 5}, **options)
        await memory.clusters.update_one({"_id": "big"}, {"$set": {"summarisedCount": 1}})
        assert (await family.run(SUMMARIZE, {"sample": 5}, **options))["skipped_unchanged"] == 1
        await memory.clusters.update_one({"_id": "big"}, {"$set": {"summarisedCount": 1}})
        await memory.memories.update_one({"_id": "big-007"}, {"$set": {"text": "The tide was low."}})
        assert (await family.run(SUMMARIZE, {"sample": 5}, **options))["summarised"] == 1

    assert len(server.asked) == 2
    assert server.asked[0]["messages"][0] == server.asked[1]["messages"][0]
    big = await memory.clusters.find_one({"_id": "big"}) or {}
    assert (big["summary"], big["summaryModel"]) == ("A summary of 5 notes.", "ollama-tiny")


async def test_killed_and_run_again_it_ends_as_if_it_had_not_been(family: Family, memory: Database) -> None:
    for number in range(4):
        await add(memory, f"c{number}", 10)

    await family.die(SUMMARIZE, after=2)
    assert len(await summarised(memory)) == 2
    await family.run(SUMMARIZE)
    after = await family.contents(without=TIMES)

    fields = {"summary": "", "summaryHash": "", "summaryAt": "", "summarisedCount": "", "summaryModel": ""}
    await memory.clusters.update_many({}, {"$unset": fields})
    await family.run(SUMMARIZE)
    assert await family.contents(without=TIMES) == after


async def test_one_tenants_backlog_does_not_hold_up_the_others(family: Family, memory: Database) -> None:
    for number in range(30):
        await add(memory, f"huge-{number:02}", 10, tenant="a-huge")
    await add(memory, "small", 10, tenant="b-small")

    result = await family.run(SUMMARIZE, {"maxSummaries": 3, "batchSize": 2})

    assert result["summarised"] == 3
    assert await summarised(memory) == ["huge-00", "huge-01", "small"]


async def test_cancelled_it_stops_after_a_cluster_and_the_next_run_does_the_rest(
    family: Family, memory: Database
) -> None:
    for number in range(5):
        await add(memory, f"c{number}", 10)

    async with (
        ollama_server() as server,
        family.engine(summariser="ollama", ollama_url=server.url) as verger,
    ):
        task = await verger.client.enqueue(SUMMARIZE)
        waiting = asyncio.Event()
        asked = server.chat

        def hold(body: dict[str, Any]) -> Any:
            waiting.set()
            return asked(body)

        server.chat = hold
        await waiting.wait()
        await verger.client.cancel(task.id)
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.CANCELLED
        left = 5 - len(await summarised(memory))
        assert left > 0

    assert (await family.run(SUMMARIZE))["summarised"] == left


async def test_a_summariser_that_is_down_trips_the_breaker_and_one_bad_cluster_does_not(
    family: Family, memory: Database
) -> None:
    for number in range(6):
        await add(memory, f"c{number}", 10)
    await memory.memories.update_one({"_id": "c2-000"}, {"$set": {"text": "poison"}})

    def picky(body: dict[str, Any]) -> Any:
        if "poison" in body["messages"][-1]["content"]:
            return web.json_response({"error": "context length exceeded"}, status=400)
        return {"message": {"content": "Fine."}}

    async with ollama_server(chat=picky) as server:
        options: dict[str, Any] = {"summariser": "ollama", "ollama_url": server.url}
        result = await family.run(SUMMARIZE, **options)
        assert (result["summarised"], result["failed"]) == (5, 1)
        await memory.clusters.update_many({}, {"$set": {"summary": None}, "$unset": {"summaryHash": ""}})
        server.chat = lambda _: web.Response(status=503, text="loading the model")
        server.asked.clear()
        task = await family.task(SUMMARIZE, {"maxFailuresInRow": 3}, **options)

    assert task.status is TaskStatus.FAILED
    assert task.last_error is not None
    assert task.last_error.type == "CircuitOpen"
    assert "3 clusters in a row failed" in task.last_error.message
    assert "loading the model" in task.last_error.message
    assert len(server.asked) == 3


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    names = Collections()
    await ensure_indexes(memory, {**clusters(names), **memories(names)})
    await add(memory, "c", 10)

    due = memory.clusters.find(due_clusters("acme", SummarizeParams()), sort=[("_id", 1)], limit=5, hint=OWN)
    members = members_of({"tenantId": "acme", "_id": "c"})
    of_cluster = memory.memories.find(members, sort=[("_id", 1)], limit=5, hint=MEMBERS)
    for query in (due, of_cluster):
        found = stages(await query.explain())
        assert "IXSCAN" in found
        assert not found & {"COLLSCAN", "SORT"}


# ---- the summarisers -------------------------------------------------------------------------------------------------


async def test_central_sentences_are_picked_in_their_order_and_never_twice() -> None:
    texts = [
        "The harbour light failed at night. My cat is grey.",
        "A keeper repaired the harbour light before the night ended.",
        "The harbour light failed at night.\nBread costs two coins.",
        "The light of the harbour failed at night!",
    ]

    summary = await Extractive().summarise(texts, max_chars=120)

    assert summary == ("The harbour light failed at night. A keeper repaired the harbour light before the night ended.")
    assert await Extractive().summarise(texts, max_chars=120) == summary
    assert await Extractive().summarise(["Storm"], max_chars=50) == "Storm"
    assert await Extractive().summarise(["a long sentence " * 20], max_chars=50) == ("a long sentence " * 4)[:49] + "…"
    assert "灯台" in await Extractive().summarise(["港の灯台が夜に消えた。猫は灰色だ。"], max_chars=12)
    with pytest.raises(SummariserRefused, match="no word"):
        await Extractive().summarise(["…", " "], max_chars=50)


async def test_work_is_bounded_whatever_the_texts_are_like() -> None:
    texts = [" ".join(f"Sentence {number} of {place}." for number in range(100)) for place in range(200)]

    assert len(await Extractive().summarise(texts, max_chars=500)) <= 500


async def test_ollama_gets_the_notes_as_data_and_its_answer_is_cut_to_length() -> None:
    async with ollama_server() as server, aiohttp.ClientSession() as session:
        server.chat = lambda _: {"message": {"content": "  " + "word " * 100}}
        summary = await Ollama(session, server.url + "/", "tiny").summarise(["x" * 50_000, "b"], max_chars=50)

    [asked] = server.asked
    assert (asked["model"], asked["stream"]) == ("tiny", False)
    assert asked["messages"][1]["content"] == '["' + "x" * 12_000 + '","b"]'
    assert len(summary) == 50
    assert summary.endswith("…")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda _: web.Response(status=500, text="out of memory"), SummariserUnavailable, "500 .*out of memory"),
        (lambda _: web.Response(status=404, text="model not found"), SummariserUnavailable, "model not found"),
        (lambda _: web.Response(status=400, text="bad"), SummariserRefused, "answers 400"),
        (lambda _: web.Response(text="<html>"), SummariserRefused, "not JSON"),
        (lambda _: web.Response(text="x" * 1_100_000), SummariserRefused, "longer than"),
        (lambda _: [1], SummariserRefused, "no message"),
        (lambda _: {"message": {"content": 7}}, SummariserRefused, "no message"),
        (lambda _: {"message": {"content": " "}}, SummariserRefused, "is empty"),
        (lambda _: web.Response(status=302, headers={"Location": "/api/tags"}), SummariserUnavailable, "302"),
    ],
)
async def test_what_ollama_answers_decides_whether_to_try_again(
    answer: Callable[[Any], Any], error: type[Exception], words: str
) -> None:
    async with ollama_server(chat=answer) as server, aiohttp.ClientSession() as session:
        with pytest.raises(error, match=words):
            await Ollama(session, server.url, "tiny").summarise(["note"], max_chars=50)


async def test_an_ollama_that_is_down_or_says_nothing_is_unavailable() -> None:
    async with aiohttp.ClientSession() as session:
        async with ollama_server() as server:
            server.silent = True
            slow = Ollama(session, server.url, "tiny", aiohttp.ClientTimeout(total=0.2))
            with pytest.raises(SummariserUnavailable, match="did not answer"):
                await slow.summarise(["note"], max_chars=50)
        with pytest.raises(SummariserUnavailable, match="did not answer"):
            await Ollama(session, server.url, "tiny").summarise(["note"], max_chars=50)
