"""Summaries without a model: the sentences nearest to what all of them are about.

Each sentence is a vector of its words, each word weighted by how often the sentence has it and by how few other
sentences do. Those nearest to the sum of all vectors are picked, unless they repeat one that was picked, and are put in
the order in which they stood.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from actors.maintenance.blocking import in_thread
from actors.memories.summariser.port import Summariser, SummariserRefused

MAX_SENTENCES = 2000
"""More are left out: work and memory stay bounded, whatever the texts are like."""
ALIKE = 0.7
"""Sentences with a cosine above this say the same."""
CENTRAL = 0.5
"""What is less than half as near to the centre as the nearest sentence is beside the point."""
FEWEST_WORDS = 3
"""Shorter sentences are picked only if there are no others."""

_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+")
_WORD = re.compile(r"\w+")

Weights = Mapping[str, float]


class Extractive(Summariser):
    """Deterministic: the same texts in the same order have the same summary."""

    @property
    def model(self) -> str:
        return "extractive-1"

    async def summarise(self, texts: Sequence[str], *, max_chars: int) -> str:
        return await in_thread(_summarise, list(texts), max_chars)


def _summarise(texts: Sequence[str], max_chars: int) -> str:
    sentences = list(_sentences(texts))
    long = [each for each in sentences if len(_words(each)) >= FEWEST_WORDS]
    sentences = long or sentences
    if not sentences:
        raise SummariserRefused("there is no word in the texts")
    vectors = _vectors(sentences)
    centre: Counter[str] = Counter()
    for vector in vectors:
        centre.update(vector)
    nearness = [_cosine(vector, centre) for vector in vectors]
    central = [place for place, near in enumerate(nearness) if near >= CENTRAL * max(nearness)]
    nearest = sorted(central, key=lambda place: (-nearness[place], place))
    return _joined(sentences, _pick(sentences, vectors, nearest, max_chars), max_chars)


def _sentences(texts: Sequence[str]) -> Iterator[str]:
    """In turn the first of each text, the second of each, …: no long text crowds out the others."""
    split = [[part for piece in _END.split(text) if _WORD.search(part := " ".join(piece.split()))] for text in texts]
    found: dict[str, tuple[int, int]] = {}
    for depth in range(max(map(len, split), default=0)):
        for number, parts in enumerate(split):
            if depth < len(parts) and len(found) < MAX_SENTENCES:
                found.setdefault(parts[depth], (number, depth))
    yield from sorted(found, key=lambda sentence: found[sentence])


def _words(sentence: str) -> list[str]:
    return _WORD.findall(sentence.casefold())


def _vectors(sentences: Sequence[str]) -> list[Weights]:
    counted = [Counter(_words(each)) for each in sentences]
    having: Counter[str] = Counter(word for words in counted for word in words)
    total = len(sentences)
    vectors: list[Weights] = []
    for words in counted:
        weights = {word: (1 + math.log(count)) * math.log1p(total / having[word]) for word, count in words.items()}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        vectors.append({word: weight / length for word, weight in weights.items()})
    return vectors


def _cosine(vector: Weights, other: Weights) -> float:
    """The vector has length 1; the other's length is the same for all that are compared."""
    return sum(weight * other.get(word, 0.0) for word, weight in vector.items())


def _pick(sentences: Sequence[str], vectors: Sequence[Weights], nearest: Sequence[int], max_chars: int) -> list[int]:
    picked: list[int] = []
    left = max_chars
    for place in nearest:
        if len(sentences[place]) > left or any(_cosine(vectors[place], vectors[each]) > ALIKE for each in picked):
            continue
        picked.append(place)
        left -= len(sentences[place]) + 1
    return picked or [nearest[0]]


def _joined(sentences: Sequence[str], picked: Sequence[int], max_chars: int) -> str:
    summary = " ".join(sentences[place] for place in sorted(picked))
    return summary if len(summary) <= max_chars else summary[: max_chars - 1].rstrip() + "…"
