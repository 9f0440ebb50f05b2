"""Texts are cut so that nothing is lost and nothing is too long."""

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from actors.maintenance.chunks import Chunk, Chunking, chunks

SMALL = Chunking(max_chars=60, overlap=15)
WORDS = st.lists(
    st.sampled_from(
        ["word", "a", "\n", "\n\n", " \n \t\n", "```", "```py\n", "~~~~\n", " ", "x" * 80, "né́", "字字字", "`"]
    ),
    max_size=60,
)
TEXTS = st.one_of(WORDS.map("".join), WORDS.map(" ".join), st.text(max_size=400))


@given(TEXTS, st.integers(50, 120), st.integers(0, 25))
def test_nothing_is_lost_and_bounds_are_kept(text: str, most: int, overlap: int) -> None:
    found = list(chunks(text, Chunking(max_chars=most, overlap=overlap)))

    covered = {place for chunk in found for place in range(chunk.start, chunk.end)}
    assert {place for place, character in enumerate(text) if not character.isspace()} <= covered
    for chunk in found:
        assert 0 < len(chunk.text) <= most
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip()
    for before, after in pairwise(found):
        assert before.start < after.start and before.end < after.end
        assert before.end - after.start <= overlap


def test_code_is_apart_from_prose() -> None:
    text = "Look:\n\n```python\nprint(1)\n\n\nprint(2)\n```\nThat was it.\n~~~\n```\nstill code"

    found = [(chunk.kind, chunk.text) for chunk in chunks(text, SMALL)]

    assert found == [
        ("text", "Look:"),
        ("code", "```python\nprint(1)\n\n\nprint(2)\n```"),
        ("text", "That was it."),
        ("code", "~~~\n```\nstill code"),
    ]


def test_paragraphs_stay_whole_and_short_ones_share_a_chunk() -> None:
    text = "One is short.\n\nTwo is too.\n\nThe third one would not fit beside these two.\n\nFour."

    assert [chunk.text for chunk in chunks(text, SMALL)] == [
        "One is short.\n\nTwo is too.",
        "The third one would not fit beside these two.\n\nFour.",
    ]


def test_a_long_paragraph_is_cut_between_words_and_its_pieces_overlap() -> None:
    text = " ".join(f"word{number:02d}" for number in range(30))

    found = list(chunks(text, SMALL))

    assert all(len(chunk.text) <= 60 for chunk in found)
    assert all(word in text.split() for chunk in found for word in chunk.text.split())
    for before, after in pairwise(found):
        assert after.start < before.end
    assert found[0] == Chunk("text", 0, 55, text[:55])


def test_a_text_without_any_gap_is_cut_by_length() -> None:
    assert [chunk.end - chunk.start for chunk in chunks("x" * 130, SMALL)] == [60, 60, 40]


@pytest.mark.parametrize("text", ["", " \n\n\t ", "\u2028"])
def test_nothing_to_see_gives_no_chunk(text: str) -> None:
    assert list(chunks(text, SMALL)) == []


def test_an_overlap_that_would_never_end_is_refused() -> None:
    with pytest.raises(ValidationError, match="more than half"):
        Chunking(max_chars=100, overlap=51)
