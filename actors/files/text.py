"""Text from the bytes of a file, as they come: plain text, Markdown, JSON, HTML without its markup."""

import codecs
import json
import re
from abc import abstractmethod
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

CHARSETS = ("utf", "us-ascii", "ascii", "iso-8859", "latin", "windows-", "cp", "koi8", "gb", "big5", "shift", "euc-")
"""How names of charsets begin. Python's codecs hold other things too, such as compressions."""
STUCK = 256 * 1024
"""So many characters without the end of a tag or comment are no markup: what follows is read afresh."""
SILENT = frozenset({"script", "style", "template", "noscript"})
"""Elements whose content nobody reads."""
INLINE = frozenset(
    {"a", "abbr", "b", "bdi", "code", "em", "i", "kbd", "mark", "q", "s", "small", "span", "strong", "u"}
)
"""Elements that part no words."""
_ENDLESS = re.compile(r"(&#[0-9]{20})[0-9]+")
"""No character has such a number, but the parser would read all of it, and Python refuses numbers of some length."""


class Extractor:
    """Fed with bytes, it keeps at most so many characters. What is no text in its charset becomes U+FFFD."""

    def __init__(self, charset: str, most: int) -> None:
        self._charset, self._decoder = charset, _decoder(charset)
        self._room = most
        self._parts: list[str] = []
        self.full = False
        """There was more than it keeps: it needs no more."""

    def feed(self, data: bytes) -> None:
        self._take(self._decoded(data))

    def end(self) -> str:
        """All text, once."""
        self._take(self._decoded(b"", True))
        return "".join(self._parts)

    def _decoded(self, data: bytes, final: bool = False) -> str:
        before, _ = self._decoder.getstate()
        try:
            return self._decoder.decode(data, final)
        except UnicodeError:  # UTF-16 and UTF-32 that do not say which byte comes first
            self._decoder = _decoder(f"{codecs.lookup(self._charset).name}-le")
            return self._decoder.decode(before + data, final)

    @abstractmethod
    def _take(self, text: str) -> None:
        """Some characters of the file."""

    def _keep(self, text: str) -> None:
        """Some characters of the text."""
        self.full = self.full or len(text) > self._room
        text = text[: self._room]
        self._room -= len(text)
        self._parts.append(text)


def _decoder(charset: str) -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder(charset)(errors="replace")


class Plain(Extractor):
    """As it is."""

    def _take(self, text: str) -> None:
        self._keep(text)


class Json(Plain):
    """The keys and texts of a JSON document, a line each; as it is, if it is none or was cut."""

    def end(self) -> str:
        text = super().end()
        try:
            return "\n".join(_words(json.loads(text)))
        except (ValueError, RecursionError):
            return text


def _words(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case dict() as values:
                waiting.extend(each for pair in reversed(values.items()) for each in reversed(pair))
            case list(values):
                waiting.extend(reversed(values))
            case bool() | None:
                pass
            case number:
                yield str(number)


class Html(Extractor):
    """What a reader sees."""

    def __init__(self, charset: str, most: int) -> None:
        super().__init__(charset, most)
        self._parser = _Parser(self._keep)

    def _take(self, text: str) -> None:
        self._parser.feed(text)
        if len(self._parser.rawdata) > STUCK:
            self._parser.rawdata = ""

    def end(self) -> str:
        self._take(self._decoded(b"", True))
        # Not close(), which takes time by the square of what is left open. A white space ends a reference.
        self._parser.feed("\n")
        return super().end()


class _Parser(HTMLParser):
    def __init__(self, keep: Any) -> None:
        super().__init__(convert_charrefs=True)
        self._keep, self._silent = keep, ""

    def goahead(self, end: bool) -> None:
        self.rawdata = _ENDLESS.sub(r"\1", self.rawdata)
        super().goahead(end)

    def parse_html_declaration(self, i: int) -> int:
        try:
            return super().parse_html_declaration(i)
        except AssertionError:  # of a marked section that HTML does not have
            return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SILENT and not self._silent:
            self._silent = tag
        elif tag not in INLINE:
            self._keep("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent:
            self._silent = ""
        elif tag not in INLINE:
            self._keep("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._keep(data)


def extractor(content_type: str, most: int) -> Extractor | None:
    """For files of this type; None: there is no text to be had from them."""
    kind, *parameters = [part.strip().lower() for part in content_type.split(";")]
    charset = _charset(parameters)
    if kind in ("text/html", "application/xhtml+xml"):
        return Html(charset, most)
    if kind == "application/json" or kind.endswith("+json"):
        return Json(charset, most)
    return Plain(charset, most) if kind.startswith("text/") or kind == "application/markdown" else None


def _charset(parameters: list[str]) -> str:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and (value := value.strip("\"' ")).startswith(CHARSETS):
            try:
                # LookupError too for what is no encoding of text.
                b"a".decode(value, "replace")
            except (LookupError, ValueError):  # the latter for a NUL in the name
                break
            return value if value.replace("-", "") != "utf8" else "utf-8-sig"
    return "utf-8-sig"
