"""The words of a text by which it is found."""

import re
import unicodedata
from collections import Counter
from heapq import nsmallest

SHORTEST, LONGEST = 2, 40
_WORD = re.compile(r"\w+")


def terms(text: str, most: int) -> list[str]:
    """Its different words, folded, the most frequent first; of equally frequent ones the first by alphabet."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    counted = Counter(word for word in words if SHORTEST <= len(word) <= LONGEST)
    return nsmallest(most, counted, key=lambda word: (-counted[word], word))
