"""The embedders: what each of them promises, what only one does, and what an Ollama server may answer."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from actors.maintenance.embedder import embedder, ollama
from actors.maintenance.embedder.hashing import DIMENSION, Hashing
from actors.maintenance.embedder.ollama import TEXTS_AT_ONCE, Ollama
from actors.maintenance.embedder.port import Embedder, EmbedderRefused, EmbedderUnavailable
from service.settings import Settings
from tests.actors.memories.ollama_server import OllamaServer, count_letters, ollama_server

Answer = Callable[[dict[str, Any]], web.Response | dict[str, Any]]


@asynccontextmanager
async def asking(answer: Answer = count_letters) -> AsyncIterator[tuple[Ollama, OllamaServer]]:
    async with ollama_server(embed=answer) as server, aiohttp.ClientSession() as session:
        yield Ollama(session, server.url, "letters"), server


@pytest.fixture(params=["hashing", "ollama"])
async def any_embedder(request: pytest.FixtureRequest) -> AsyncIterator[Embedder]:
    async with ollama_server() as server:
        opened = embedder.open(Settings(embedder=request.param, ollama_url=server.url))
        async for each in opened:
            yield each


def near(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


# ---- what every embedder promises ------------------------------------------------------------------------------------


async def test_each_text_has_its_vector_of_length_one_in_their_order(any_embedder: Embedder) -> None:
    texts = ["", "\n", "ada", "eee", "naïve 字 😀 \x00", *(f"text {number}" for number in range(TEXTS_AT_ONCE * 2))]

    together = await any_embedder.embed(texts)
    alone = [(await any_embedder.embed([text]))[0] for text in texts[:6]]

    assert together[:6] == alone
    assert {len(vector) for vector in together} == {len(together[0])}
    assert all(math.isclose(math.hypot(*vector), 1) for vector in together)
    assert await any_embedder.embed([]) == []


async def test_many_runs_at_once_do_not_mix_up_their_answers(any_embedder: Embedder) -> None:
    texts = [[f"run {run} text {'a' * number}" for number in range(5)] for run in range(8)]

    answers = await asyncio.gather(*(any_embedder.embed(each) for each in texts))

    assert answers == [await any_embedder.embed(each) for each in texts]


# ---- hashing ---------------------------------------------------------------------------------------------------------


async def test_hashing_finds_the_text_that_shares_words() -> None:
    notes = [
        "The backup of the database runs every night at half past two.",
        "Webhooks are signed, and an endpoint that answers 410 is disabled.",
        "Die Sitzung wird jede Stunde archiviert, täglich und wöchentlich.",
        "記憶のベクトルは毎日整理されます。",
        "def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    ]
    questions = [
        "when do database backups run",
        "DISABLED webhook endpoints",
        "wöchentlich archivieren",
        "ベクトル",
        "fibonacci",
    ]
    found = await Hashing().embed(notes)

    best = [max(range(5), key=lambda n: near(vector, found[n])) for vector in await Hashing().embed(questions)]

    assert best == [0, 1, 2, 3, 4]


async def test_hashing_takes_no_notice_of_case_width_or_how_an_accent_is_written() -> None:
    one, other = await Hashing().embed(["Café ＡＢＣ straße", "CAFE\u0301 abc STRASSE"])

    assert near(one, other) == pytest.approx(1)


async def test_hashing_gives_the_same_on_every_machine() -> None:
    (vector,) = await Hashing().embed(["verger"])

    assert len(vector) == DIMENSION
    assert [(place, round(value, 4)) for place, value in enumerate(vector) if value][:3] == [
        (37, -0.2417),
        (75, 0.2417),
        (87, 0.2417),
    ]


async def test_hashing_does_not_hold_up_the_loop() -> None:
    working = asyncio.ensure_future(Hashing().embed(["some words of a longer text " * 200] * 40))
    turns = 0
    while not working.done():
        await asyncio.sleep(0.001)
        turns += 1

    assert turns > 1
    assert len(await working) == 40


# ---- Ollama ----------------------------------------------------------------------------------------------------------


async def test_ollama_is_asked_for_the_model_in_bounded_portions() -> None:
    async with asking() as (embedder, server):
        await embedder.embed([f"text {number}" for number in range(TEXTS_AT_ONCE + 1)])

    assert [(body["model"], len(body["input"])) for body in server.asked] == [
        ("letters", TEXTS_AT_ONCE),
        ("letters", 1),
    ]


@pytest.mark.parametrize("status", [500, 503, 429, 408, 404, 401, 302])
async def test_a_server_that_is_busy_broken_or_not_set_up_yet_is_unavailable(status: int) -> None:
    async with asking(lambda _: web.Response(status=status, text="not now")) as (embedder, _):
        with pytest.raises(EmbedderUnavailable, match=f"answers {status} for model 'letters': not now"):
            await embedder.embed(["text"])


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_server_that_will_not_take_the_texts_refuses(status: int) -> None:
    async with asking(lambda _: web.Response(status=status, text="the input is too long")) as (embedder, _):
        with pytest.raises(EmbedderRefused, match="the input is too long"):
            await embedder.embed(["text"])


@pytest.mark.parametrize(
    ("embeddings", "problem"),
    [
        ([[1.0, 0.0]], "1 embeddings for 2 texts"),
        ([[1.0, 0.0], [1.0]], "embeddings of 1 numbers, where others have 2"),
        ([[1.0, 0.0], [0.0, 0.0]], "without a direction"),
        ([[1.0, 0.0], [1.7e308, 1.7e308]], "without a direction"),
        ([[1.0, 0.0], []], "without a direction"),
        ([[1.0, 0.0], [1.0, None]], "no number"),
        ([[1.0, 0.0], [1.0, True]], "no number"),
        ([[1.0, 0.0], "10"], "holds no embeddings"),
        (None, "holds no embeddings"),
    ],
)
async def test_an_answer_that_cannot_be_right_is_refused(embeddings: object, problem: str) -> None:
    async with asking(lambda _: {"embeddings": embeddings}) as (embedder, _):
        with pytest.raises(EmbedderRefused, match=problem):
            await embedder.embed(["one", "two"])


@pytest.mark.parametrize(
    "content", ["", "{", '{"embeddings": [[NaN, 1.0]]}', "[" * 100_000, '{"embeddings": [[1.0, 1]]']
)
async def test_an_answer_that_is_no_json_is_refused(content: str) -> None:
    async with asking(lambda _: web.Response(text=content)) as (embedder, _):
        with pytest.raises(EmbedderRefused, match="is not JSON"):
            await embedder.embed(["one"])


async def test_a_model_that_changes_its_dimension_is_refused() -> None:
    lengths = iter([2, 2, 3])
    async with asking(lambda _: {"embeddings": [[1.0] * next(lengths)]}) as (embedder, _):
        await embedder.embed(["one"])
        await embedder.embed(["two"])
        with pytest.raises(EmbedderRefused, match="embeddings of 3 numbers, where others have 2"):
            await embedder.embed(["three"])


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "BYTES_A_TEXT", 1000)
    async with asking(lambda _: web.Response(text="1" * 1_000_000)) as (embedder, _):
        with pytest.raises(EmbedderRefused, match="longer than 2000 bytes"):
            await embedder.embed(["one", "two"])


async def test_a_server_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    async with asking() as (embedder, server):
        server.silent = True
        with pytest.raises(EmbedderUnavailable, match="did not answer"):
            await embedder.embed(["one"])


async def test_a_server_that_is_not_there_or_hangs_up_is_unavailable() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        asked = Ollama(session, f"http://127.0.0.1:{port}/", "letters")
        with pytest.raises(EmbedderUnavailable, match="did not answer"):
            await asked.embed(["one"])
        server.close()
        await server.wait_closed()
        with pytest.raises(EmbedderUnavailable, match="did not answer"):
            await asked.embed(["one"])


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async with asking() as (embedder, server):
        server.silent = True
        asked = asyncio.ensure_future(embedder.embed(["one"]))
        while not server.asked:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        server.silent = False

        assert len(await embedder.embed(["one"])) == 1


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with ollama_server() as server:
        async for each in embedder.open(Settings(embedder="ollama", ollama_url=server.url)):
            assert len(await each.embed(["one"])) == 1
