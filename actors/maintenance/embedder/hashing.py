"""Vectors without a model: texts that share words lie near each other."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from actors.maintenance.blocking import in_thread
from actors.maintenance.embedder.port import Embedder

DIMENSION = 256
WORD, PAIR, TRIGRAM = 1.0, 0.5, 0.3
"""What a word, two words in a row, and three characters of a word weigh: trigrams let ``index`` meet ``indexes``."""
AT_ONCE = 32
"""Texts hashed between two looks at whether to stop."""
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


class Hashing(Embedder):
    """Feature hashing: each word, pair of words and trigram adds or takes a weight at a place that its hash names.

    The weight of a feature that comes more often grows with its logarithm. The same text gives the same vector on every
    machine. It finds shared words, in any script, and knows no synonyms.
    """

    def __init__(self, dimension: int = DIMENSION) -> None:
        self._dimension = dimension

    @property
    def model(self) -> str:
        return f"hashing-1-{self._dimension}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), AT_ONCE):
            vectors += await in_thread(self._embed, texts[start : start + AT_ONCE])
        return vectors

    def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        values = [0.0] * self._dimension
        for (feature, weight), count in Counter(_features(text)).items():
            place, sign = self._place(feature)
            values[place] += sign * weight * (1 + math.log(count))
        length = math.sqrt(sum(value * value for value in values))
        if not length:
            # Nothing to hold on to, such as punctuation only, or nothing left of it: all such texts are alike.
            values[self._place("")[0]] = length = 1.0
        return [value / length for value in values]

    def _place(self, feature: str) -> tuple[int, int]:
        number = int.from_bytes(blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest())
        return (number >> 1) % self._dimension, 1 if number & 1 else -1


def _features(text: str) -> Iterator[tuple[str, float]]:
    before = ""
    for word in _words(text):
        yield f"w {word}", WORD
        if before:
            yield f"p {before} {word}", PAIR
        before = word
        edged = f"<{word}>"
        if len(word) > 1:
            for start in range(len(edged) - 2):
                yield f"t {edged[start : start + 3]}", TRIGRAM


def _words(text: str) -> Iterator[str]:
    for run in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _UNSPACED.search(run):
            # Each character is a word; those in a row become pairs.
            yield from run
        else:
            yield from (part for part in run.split("_") if part)
