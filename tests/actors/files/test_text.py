"""Text from files of several types, whatever their bytes are."""

import pytest

from actors.files.terms import terms
from actors.files.text import STUCK, extractor


def text_of(kind: str, data: bytes, *, most: int = 1000, piece: int = 7) -> str | None:
    """Fed in small pieces, which part characters and tags."""
    found = extractor(kind, most)
    if found is None:
        return None
    for start in range(0, len(data), piece):
        found.feed(data[start : start + piece])
    return found.end()


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("text/plain", "Grüße, 世界".encode(), "Grüße, 世界"),
        ("text/plain; charset=ISO-8859-1", "Grüße".encode("latin-1"), "Grüße"),
        ("text/plain; charset=zlib", b"plain", "plain"),
        ("text/plain; charset=nonsense", b"plain", "plain"),
        ("text/plain; charset=utf-nonsense", b"plain", "plain"),
        ("text/plain; charset=utf-\0", b"plain", "plain"),
        ("text/plain; charset=utf-16", "Grüße".encode("utf-16"), "Grüße"),
        ("text/plain; charset=utf-16", "plain".encode("utf-16-le"), "plain"),
        ("text/plain; charset=utf16", "Grüße".encode("utf-16-le"), "Grüße"),
        ("text/html; charset=utf-32", "<p>Grüße".encode("utf-32-le"), "\nGrüße\n"),
        ("text/plain", b"\xef\xbb\xbfmarked \xff\xfe", "marked \ufffd\ufffd"),
        ("TEXT/Markdown", b"# Title\n\nwords", "# Title\n\nwords"),
        ("application/json", b'{"a": ["x", {"b": "caf\\u00e9"}], "n": 12, "t": true}', "a\nx\nb\ncafé\nn\n12\nt"),
        ("application/json", b'{"cut', '{"cut'),
        ("application/json", b"[" * 900, "[" * 900),
        ("image/png", b"\x89PNG", None),
        ("application/pdf", b"%PDF", None),
        ("", b"?", None),
    ],
)
def test_text_is_taken_from_what_has_any(kind: str, data: bytes, text: str | None) -> None:
    assert text_of(kind, data) == text


def test_markup_and_scripts_are_no_text() -> None:
    page = (
        b"<!DOCTYPE html><html><head><style>p {color: red}</style><script>if (a < b) alert('no')</script></head>"
        b"<body><!-- nor this --><h1>Fish &amp; chips</h1><p>so<b>me</b> words<br>more &lt;tags&gt;</p>"
        b"<![if ie]>odd<![endif]><p>end &copy"
    )

    found = text_of("text/html", page)

    assert found is not None
    assert found.split() == ["Fish", "&", "chips", "some", "words", "more", "<tags>", "odd", "end", "©"]


@pytest.mark.parametrize("piece", [7, 10_000])
@pytest.mark.parametrize("page", [b"a &#%s; b", b"<p title='&#%s;'>a b"])
def test_a_character_of_a_number_without_end_is_none(page: bytes, piece: int) -> None:
    """Python refuses to read a number of so many digits."""
    found = text_of("text/html", page % (b"9" * 5000), most=10_000, piece=piece)

    assert found is not None
    assert found.split()[0] == "a"
    assert found.split()[-1] == "b"


@pytest.mark.parametrize("start", [b"<!--", b"<a ", b"<![CDATA[", b"</a ", b"<?", b"<script>"])
def test_a_page_that_opens_and_never_closes_takes_no_time_by_the_square(start: bytes) -> None:
    # Closed by the parser itself, this takes hours.
    found = extractor("text/html", 10_000)
    assert found is not None
    page = b"before " + start * (3 * STUCK // len(start))

    for begin in range(0, len(page), 64 * 1024):
        found.feed(page[begin : begin + 64 * 1024])

    assert found.end().startswith("before")


def test_no_more_is_kept_than_was_asked_for() -> None:
    found = extractor("text/plain", 10)
    assert found is not None

    found.feed(b"0123456789")
    assert not found.full
    found.feed(b"x")

    assert (found.full, found.end()) == (True, "0123456789")


def test_terms_are_folded_and_the_most_frequent_come_first() -> None:
    text = "Cat cat DOG ﬁsh a x" + " bird" * 3 + " " + "l" * 100

    assert terms(text, 3) == ["bird", "cat", "dog"]
    assert terms(text, 100) == ["bird", "cat", "dog", "fish"]
    assert terms("", 5) == []
