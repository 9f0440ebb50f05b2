"""Vectors from an Ollama server: ``POST /api/embed``."""

import math
from collections.abc import Sequence
from itertools import chain

import aiohttp
import orjson

from actors.maintenance.blocking import in_thread
from actors.maintenance.embedder.port import Embedder, EmbedderRefused, EmbedderUnavailable

TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=5)
"""Of one request: a model may have to be loaded first."""
TEXTS_AT_ONCE = 64
BYTES_A_TEXT = 256 * 1024
"""More than 8,000 dimensions take, written out."""
SHOWN = 300
"""Characters of the server's own words in an error."""
ABOUT_THE_TEXTS = frozenset({400, 413, 422})
"""Answers that another attempt gets again. A model that is not there yet, 404, may be there by then."""


class Ollama(Embedder):
    """Asks a server that speaks Ollama's API. The first answer says what length vectors have; others are refused."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        """The session is the caller's, who closes it."""
        self._session, self._url, self._model = session, f"{url.rstrip('/')}/api/embed", model
        self._dimension: int | None = None

    @property
    def model(self) -> str:
        return f"ollama-{self._model}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            vectors += self._of_one_length(await in_thread(self._vectors, await self._ask(some), len(some)))
        return vectors

    async def _ask(self, texts: Sequence[str]) -> bytes:
        body = orjson.dumps({"model": self._model, "input": list(texts)})
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, timeout=TIMEOUT, allow_redirects=False
            ) as response:
                content = await _read(response, len(texts) * BYTES_A_TEXT)
                status = response.status
        except (TimeoutError, aiohttp.ClientError) as error:
            why = str(error) or type(error).__name__
            raise EmbedderUnavailable(f"Ollama at {self._url} did not answer: {why[:SHOWN]}") from error
        if status == 200:
            return content
        words = content[:SHOWN].decode(errors="replace")
        problem = f"Ollama at {self._url} answers {status} for model {self._model!r}: {words}"
        raise EmbedderRefused(problem) if status in ABOUT_THE_TEXTS else EmbedderUnavailable(problem)

    def _vectors(self, content: bytes, wanted: int) -> list[list[float]]:
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise self._wrong(f"is not JSON: {error}") from None
        vectors = answer.get("embeddings") if isinstance(answer, dict) else None
        if not isinstance(vectors, list) or not all(isinstance(vector, list) for vector in vectors):
            raise self._wrong("holds no embeddings")
        if len(vectors) != wanted:
            raise self._wrong(f"holds {len(vectors)} embeddings for {wanted} texts")
        if not all(type(value) in (float, int) for value in chain.from_iterable(vectors)):
            raise self._wrong("holds embeddings with something that is no number")
        return [self._normalised(vector) for vector in vectors]

    def _normalised(self, vector: list[float]) -> list[float]:
        length = math.hypot(*vector)
        if not length or not math.isfinite(length):
            raise self._wrong("holds an embedding without a direction")
        return [value / length for value in vector]

    def _of_one_length(self, vectors: list[list[float]]) -> list[list[float]]:
        wanted = self._dimension or len(vectors[0])
        for vector in vectors:
            if len(vector) != wanted:
                raise self._wrong(f"holds embeddings of {len(vector)} numbers, where others have {wanted}")
        self._dimension = wanted
        return vectors

    def _wrong(self, problem: str) -> EmbedderRefused:
        return EmbedderRefused(f"Ollama's answer for model {self._model!r} {problem}")


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > most:
            raise EmbedderRefused(f"Ollama's answer is longer than {most} bytes")
    return bytes(content)
