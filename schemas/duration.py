"""Durations as people write them: ISO 8601 (``PT10M``) or short (``90s``, ``10m``, ``1h30m``, ``7d``)."""

import re
from datetime import timedelta

_ISO = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)
_SHORT = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = 60
_EXACT_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def parse_duration(text: str) -> timedelta:
    """Read a duration; never negative.

    Raises:
        ValueError: the text is neither form, or too large for a ``timedelta``.
    """
    text = text.strip()
    if 0 < len(text) <= _LONGEST:
        try:
            found = _iso(text.upper())
            if found is None:
                found = _short(text.lower())
        except OverflowError:
            found = None
        if found is not None:
            return found
    raise ValueError(f"{text[:_LONGEST]!r} is not a duration: write 90s, 10m, 1h30m, 7d or ISO 8601 such as PT10M")


def _iso(text: str) -> timedelta | None:
    match = _ISO.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        return None
    return timedelta(**{unit: float(amount) for unit, amount in match.groupdict().items() if amount})


def _short(text: str) -> timedelta | None:
    pieces = _SHORT.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text.replace(" ", ""):
        return None
    total = timedelta()
    for number, unit in pieces:
        total += timedelta(**{_UNITS[unit]: float(number)})
    return total


def format_duration(span: timedelta) -> str:
    """The short form, at most two units: ``2d3h``, ``1m30s``, ``250ms``; for tables and log lines."""
    milliseconds = max(0, round(span.total_seconds() * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    pieces = []
    left = milliseconds // 1000
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            pieces.append(f"{amount}{unit}")
    return "".join(pieces[:2])


def exact_duration(span: timedelta) -> str:
    """The short form without a loss, for whole milliseconds: ``1h30m``, ``250ms``."""
    left = span // timedelta(milliseconds=1)
    pieces = []
    for unit, size in _EXACT_UNITS:
        amount, left = divmod(left, size)
        if amount:
            pieces.append(f"{amount}{unit}")
    return "".join(pieces) or "0s"
