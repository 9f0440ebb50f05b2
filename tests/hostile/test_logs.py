"""What strangers write into ids, names and errors never makes a line of the log, nor an order to a terminal."""

import json
import logging
import time
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings, strategies as st

from actors.cli.output import details, note, say, table
from service.logs import bind, configure_logs
from service.settings import Settings

pytestmark = pytest.mark.usefixtures("logs_as_before")

HUGE = 20_000_000
FORGED = "12:00:00 [info     ] task.completed     task_id=t-1"
EVIL = [
    f"a\n{FORGED}",
    f"a\r{FORGED}",
    f"a\x85{FORGED}",
    f"a\u2028{FORGED}",
    f"a\x0b{FORGED}\x0c",
    "a\x1b[2J\x1b[31mb",
    "a\x1b]0;title\x07",
    "a\x9b31mb",
    "\x1b[2J",
    "a\x00b",
    "a\x08\x08\x08b",
    "a\u202eb",
    '{"event":"task.completed"}\n{"event":"x"}',
]
evil = pytest.mark.parametrize("text", EVIL, ids=ascii)


def everywhere(text: str) -> int:
    """Write it wherever a line can hold it; how many lines that makes."""
    log: Any = structlog.get_logger().bind()
    bind({"id": text})
    log.info("task.claimed", task_id=text, names=[text], nested={text: text})
    log.info("task.claimed", **{f"key {text}": text})
    log.info(text)
    logging.getLogger("myapp").warning("said %s", text, extra={"who": text})
    log.info("task.failed", traceback=f'Traceback:\n  File "{text}", line 1, in work\nKeyError: {text}')
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("task.failed", error=text)
    return 6


@evil
def test_a_line_of_json_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="json", actors=("myapp",)))

    written = everywhere(text)

    said = capsys.readouterr().err
    lines = said.splitlines()
    assert len(lines) == written
    assert {json.loads(line)["level"] for line in lines} == {"info", "warning", "error"}
    assert json.loads(lines[0])["task_id"] == text
    assert not set(said) & {chr(code) for code in (*range(32), 127, *range(128, 160)) if code not in (10, 127)}


@evil
def test_a_line_for_people_is_one_line_and_nothing_that_a_terminal_obeys(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(Settings(log_format="console", actors=("myapp",)))

    written = everywhere(text)

    said = capsys.readouterr().err
    assert all(char.isprintable() or char == "\n" for char in said)
    lines = [line for line in said.split("\n") if line and not line.startswith(" ")]
    assert len(lines) == written
    assert not any(line.startswith(FORGED) for line in lines)


@settings(
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(text=st.text(st.characters(), max_size=20))
def test_whatever_a_text_holds_it_stays_in_its_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("json", "console"):
        configure_logs(Settings.model_validate({"log_format": form, "actors": ("myapp",)}))
        capsys.readouterr()
        structlog.get_logger().bind().info("task.claimed", task_id=text)

        (line,) = capsys.readouterr().err.splitlines()
        assert "task.claimed" in line


@pytest.mark.parametrize("said", ["x", "://a:", "token=a,", "password ", "basic ", "a-s3cret", "\n"])
def test_a_huge_text_costs_no_more_than_what_is_shown_of_it(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="console", amqp_url="amqp://ada:a-s3cret@mq/"))
    text = said * (HUGE // len(said))

    begun = time.process_time()
    structlog.get_logger().bind().error("task.failed", error=text, nested=[text], exception=text)

    assert time.process_time() - begun < 0.1
    assert len(capsys.readouterr().err) < 50_000


@evil
def test_the_command_line_shows_what_a_terminal_would_obey(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    note(text)
    table(["ID", "ERROR"], [[text, text]])
    details({"id": text, "error": text})

    shown = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in shown.out + shown.err)
