"""What people read: instants, tables, and nothing that a terminal would obey."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from actors.cli.failure import complain
from actors.cli.moments import both, iso, parse_moment, relative
from actors.cli.output import details, say, table
from service.errors import InvalidInput

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LONG = "e55b02bf7335410a899d5ad739b02755"


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (timedelta(), "in 0s"),
        (timedelta(seconds=90, milliseconds=700), "in 1m30s"),
        (timedelta(hours=2, minutes=5, seconds=59), "in 2h5m"),
        (timedelta(days=-3, hours=-4, minutes=-1), "3d4h ago"),
        (timedelta(milliseconds=-5), "0s ago"),
    ],
)
def test_a_distance_is_told_as_coarsely_as_it_matters(distance: timedelta, said: str) -> None:
    assert relative(NOW + distance, NOW) == said
    assert both(NOW + distance, NOW) == f"{NOW + distance:%Y-%m-%d %H:%M:%S}Z ({said})"


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-28T01:00:00+01:00", "2026-03-28T00:00:00Z"),
        ("2026-03-28T01:00:00.25Z", "2026-03-28T01:00:00.250Z"),
        ("2026-03-28", "2026-03-27T23:00:00Z"),
        (" 2026-07-01 12:00 ", "2026-07-01T10:00:00Z"),
    ],
)
def test_an_instant_without_an_offset_is_local(text: str, instant: str) -> None:
    assert iso(parse_moment(text, "--from", ZoneInfo("Europe/Berlin"))) == instant


@pytest.mark.parametrize("text", ["0001-01-02", "9000-01-01", "9999-12-31T23:59:59Z"])
def test_an_instant_at_an_end_of_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--from: .* is too near the end of the calendar; give a year"):
        parse_moment(text, "--from")


@pytest.mark.parametrize("text", ["", "now", "2026-02-30", "0001-01-01T00:00+14:00"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--from: .* is no instant; write 2026-12-24T18:00:00Z"):
        parse_moment(text, "--from")


@pytest.mark.parametrize(("columns", "widest"), [("60", 66), ("80", 80), ("120", 120)])
def test_a_table_keeps_to_the_terminal_and_never_cuts_an_id(
    columns: str, widest: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    table(("ID", "TYPE", "WHEN", "NOTE"), [(LONG, "sessions.collect", "2d3h ago", "why " * 50)])

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= widest
    assert "".join(line[: lines[0].index("TYPE")].strip() for line in lines[1:]) == LONG
    assert lines[1].endswith("…")


def test_a_terminal_is_told_nothing_by_strangers(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31m\u202eb\r\nc [bold]d[/bold]"

    table(("ID",), [(hostile,)])
    say(hostile)
    details({"body": hostile})
    complain(hostile)

    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\u202e" not in said.out + said.err
    assert said.out.splitlines()[1] == "a\\x1b[31m\\u202eb c [bold]d[/bold]"
    assert said.err == "verger: a\\x1b[31m\\u202eb c [bold]d[/bold]\n"
