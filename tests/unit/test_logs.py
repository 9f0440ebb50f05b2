"""The pipe of the logs: what a line holds, and what it never holds."""

import asyncio
import errno
import io
import json
import logging
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from service.log_events import LogEvent
from service.logs import LONGEST, LONGEST_TRACE, MOST_FRAMES, MOST_ITEMS, bind, configure_logs
from service.settings import Settings

pytestmark = pytest.mark.usefixtures("logs_as_before")

MONGO_SECRET, AMQP_SECRET, HANDLER_SECRET = "mongo-s3cret/x", "amqp-s3cret", "hunter2-hunter2"
Lines = Callable[[], list[dict[str, Any]]]


def settings(**more: Any) -> Settings:
    return Settings(
        mongodb_url=f"mongodb://ada:{MONGO_SECRET.replace('/', '%2F')}@db.example.org/",
        amqp_url=f"amqp://ada:{AMQP_SECRET}@mq.example.org/",
        actors=("myapp.jobs",),
        **more,
    )


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Sets up JSON lines; gives those that were written since."""
    configure_logs(settings())
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def new_logger() -> Any:
    """One that no other test has used: the first use keeps the set-up."""
    return structlog.get_logger()


def test_a_line_is_an_event_with_level_time_and_fields(lines: Lines) -> None:
    new_logger().info(LogEvent.TASK_STARTED, task_type="a.b", id="1", attempt=1)

    (line,) = lines()
    assert line | {"timestamp": None} == {
        "event": "task.started",
        "level": "info",
        "timestamp": None,
        "task_type": "a.b",
        "id": "1",
        "attempt": 1,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


@pytest.mark.parametrize(
    "fields",
    [
        {"password": HANDLER_SECRET},
        {"api_key": HANDLER_SECRET},
        {"Authorization": f"Bearer {HANDLER_SECRET}"},
        {"headers": {"X-Api-Key": HANDLER_SECRET, "cookie": HANDLER_SECRET}},
        {"body": {"anything": HANDLER_SECRET}},
        {"request": {"parts": [{"taskBody": {"note": HANDLER_SECRET}}]}},
        {"error": f"login failed: password={HANDLER_SECRET}"},
        {"error": f'{{"token": "{HANDLER_SECRET}"}} was refused'},
        {"reason": f"Authorization: Bearer {HANDLER_SECRET}"},
        {"reason": f"sent Bearer {HANDLER_SECRET} twice"},
        {"error": f"cannot reach https://ada:{HANDLER_SECRET}@example.org/x"},
        {"nested": [f"secret: {HANDLER_SECRET}"]},
        {"error": ValueError(f"password='{HANDLER_SECRET}'")},
        {"url": f"mongodb://ada:{MONGO_SECRET}@db/", "password_hint": HANDLER_SECRET},
        {"error": f"the driver says {AMQP_SECRET}"},
        {"error": f"the driver says {MONGO_SECRET} and {MONGO_SECRET.replace('/', '%2F')}"},
    ],
    ids=str,
)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_is_in_no_line(fields: dict[str, Any], log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(settings(log_format=log_format))

    new_logger().error("thing.happened", **fields)

    said = capsys.readouterr().err
    assert "thing.happened" in said
    assert "***" in said
    for secret in (HANDLER_SECRET, AMQP_SECRET, "s3cret"):
        assert secret not in said


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_in_an_exception_or_in_the_lines_of_a_library_is_in_no_line(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(settings(log_format=log_format))
    password = HANDLER_SECRET

    try:
        raise RuntimeError(f"token={password} for amqp://ada:{AMQP_SECRET}@mq/")
    except RuntimeError:
        new_logger().exception("thing.crashed")
        logging.getLogger("somebody").exception("with password=%s", password)
        logging.getLogger("somebody").warning("more", extra={"api_key": password, "deep": {"secret": password}})
    new_logger().error("task.failed", traceback=f'Traceback:\n  File "a.py", line 3, in f\nX: secret={password}')

    said = capsys.readouterr().err
    assert said.count("a.py") == 1
    assert said.count("RuntimeError") >= 2
    assert HANDLER_SECRET not in said
    assert "s3cret" not in said


SAID = {
    "login": f"https://ada:{HANDLER_SECRET}@example.org/x",
    "login, and another in its run": f"https://ada:{HANDLER_SECRET}@example.org,https://bob:{HANDLER_SECRET}@example.net",
    "name": f"password={HANDLER_SECRET}",
    "name in JSON": f'{{"password": "{HANDLER_SECRET}"}}',
    "name inside a login": f"https://ada:x-token={HANDLER_SECRET}@example.org token=x",
    "login inside a name": f"password=https://ada:{HANDLER_SECRET}@h,{HANDLER_SECRET}@{HANDLER_SECRET}",
    "the settings' inside a name": f"password={HANDLER_SECRET}{AMQP_SECRET}{HANDLER_SECRET}",
    "bearer": f"sent Bearer {HANDLER_SECRET}",
    "the settings'": f"the driver says {AMQP_SECRET}",
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
def test_a_secret_across_the_end_of_what_is_shown_leaves_no_part_of_it(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(settings())

    for before in range(len(said) + 1):
        text = f"{'x ' * LONGEST}"[: LONGEST - before] + f"{said} and {'y ' * LONGEST}"
        new_logger().error("thing.happened", error=text, nested=[text], failure=ValueError(text))

    assert parts_shown(capsys.readouterr().err) == set()


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
def test_a_secret_across_the_beginning_of_a_stack_trace_that_is_cut_leaves_no_part_of_it(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(settings(log_format="console"))

    for after in range(len(said) + 1):
        rest = f"{' y' * LONGEST_TRACE}"[: LONGEST_TRACE - after]
        new_logger().error("task.failed", traceback=f"{'x ' * LONGEST_TRACE}{said}{rest}")

    assert parts_shown(capsys.readouterr().err) == set()


def parts_shown(said: str) -> set[str]:
    """Of the secrets above: whatever is long enough to be no accident."""
    parts = {secret[at : at + 4] for secret in (HANDLER_SECRET, AMQP_SECRET) for at in range(len(secret) - 3)}
    return {part for part in parts if part in said}


def test_a_login_whose_end_is_far_beyond_what_is_shown_is_hidden(lines: Lines) -> None:
    new_logger().error("thing.happened", error=f"{'x ' * 900}https://ada:{'q' * 100_000}@example.org")

    (line,) = lines()
    assert line["error"] == f"{'x ' * 900}https***…"


def test_what_lies_before_a_secret_that_is_cut_is_shown(lines: Lines) -> None:
    new_logger().error("thing.happened", error=f"{'x' * (LONGEST - 20)} password={HANDLER_SECRET}{'y' * LONGEST}")

    (line,) = lines()
    assert line["error"] == f"{'x' * (LONGEST - 20)} ***…"


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqp://ada:p'wq@mq/", "cannot reach amqp://ada:p'wq@mq/ now"),
        ("amqp://ada:p%20wq@mq/", "cannot reach ada:p wq@mq now"),
        ("amqp://ada:p%20wq-and-more@mq/?of=ada@example.org", "the driver says p wq-and-more now"),
        ("amqp://ada:wq,secret;wq@mq/", "the driver says password=wq,secret;wq now"),
    ],
)
def test_a_password_of_the_settings_is_hidden_whatever_it_is_made_of(
    url: str, text: str, log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(Settings.model_validate({"amqp_url": url, "log_format": log_format}))

    new_logger().error("thing.happened", error=text)

    said = capsys.readouterr().err
    assert "***" in said and "now" in said
    assert "wq" not in said


def test_a_password_that_begins_with_another_is_hidden_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    for first, second in (("abcdef", "abcdef-ghijkl"), ("abcdef-ghijkl", "abcdef")):
        configure_logs(Settings(mongodb_url=f"mongodb://ada:{first}@db/", amqp_url=f"amqp://ada:{second}@mq/"))
        new_logger().error("thing.happened", error="the driver says abcdef-ghijkl")

    assert "ghi" not in capsys.readouterr().err


def test_a_short_password_of_the_settings_is_hidden_in_a_login_and_shown_in_a_word(lines: Lines) -> None:
    configure_logs(Settings(amqp_url="amqp://guest:guest@mq/"))

    new_logger().error("thing.happened", error="no login as guest:guest@mq", reason="guests are welcome")

    (line,) = lines()
    assert line["error"] == "no login as guest:***@mq"
    assert line["reason"] == "guests are welcome"


def test_what_is_no_secret_is_shown(lines: Lines) -> None:
    shown = {
        "claim_token": "abc",
        "input_tokens": 340,
        "error": "the list of tokens ends too early",
        "path": "https://example.org/a@b",
        "retry_at": "2026-10-09T12:00:00+00:00",
    }

    new_logger().info("thing.happened", **shown)

    (line,) = lines()
    assert {key: line[key] for key in shown} == shown


class Strange:
    def __str__(self) -> str:
        raise ValueError("no text")


class Colour(StrEnum):
    RED = "red"


def test_every_value_is_bounded_and_none_costs_the_line(lines: Lines) -> None:
    deep: Any = "end"
    for _ in range(50):
        deep = {"inner": deep}

    new_logger().info(
        "thing.happened",
        text="x" * 100_000,
        nested={"texts": ["y" * 100_000] * 1000, "map": dict.fromkeys(map(str, range(1000)), 1)},
        deep=deep,
        strange=Strange(),
        data=b"x" * 5000,
        colour=Colour.RED,
        path=Path("/a"),
        uid=UUID(int=7),
        half="\ud800",
        large=2**70,
        numbers={1: 2},
    )
    new_logger().info("thing.happened", larger=10**5000)

    first, second = lines()
    assert len(first["text"]) == LONGEST + 1
    assert len(first["nested"]["texts"]) == len(first["nested"]["map"]) == MOST_ITEMS
    assert len(first["nested"]["texts"][0]) == LONGEST + 1
    assert json.dumps(first["deep"]).count("inner") == 5
    assert first["strange"] == "(Strange: ValueError)"
    assert first["data"] == "5000 bytes"
    assert (first["colour"], first["path"], first["uid"]) == ("red", "/a", str(UUID(int=7)))
    assert first["large"] == 2**70
    assert first["numbers"] == {"1": 2}
    assert second["event"] == "thing.happened"


def test_a_stack_trace_is_a_field_with_frames(lines: Lines) -> None:
    def inner() -> None:
        raise KeyError("x")

    try:
        inner()
    except KeyError:
        new_logger().exception("thing.crashed")
    new_logger().error(
        "task.failed", traceback="Traceback (most recent call last):\n" + '  File "jobs.py", line 3, in work\n' * 90
    )

    ours, handlers = lines()
    assert ours["exception"][0]["exc_type"] == "KeyError"
    assert ours["exception"][0]["frames"][-1]["name"] == "inner"
    assert "locals" not in json.dumps(ours)
    assert handlers["traceback"] == [{"filename": "jobs.py", "lineno": 3, "name": "work"}] * MOST_FRAMES


def test_people_see_a_stack_trace_below_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(settings(log_format="console"))

    new_logger().error("task.failed", id="1", traceback='Traceback:\n  File "jobs.py", line 3, in work\nKeyError')

    line, *below = capsys.readouterr().err.splitlines()
    assert "task.failed" in line and "jobs.py" not in line
    assert below[-1] == "  KeyError"


async def test_what_is_bound_is_on_each_line_of_its_task_alone(lines: Lines) -> None:
    async def run(number: str) -> None:
        bind({"id": number, "task_type": "a.b"})
        await asyncio.sleep(0)
        new_logger().info("letter.sent", to="ada")
        logging.getLogger("myapp.mail").info("sent to %s", "ada", extra={"size": 3})
        await asyncio.create_task(inner())
        with ThreadPoolExecutor(1) as threads:
            call = copy_context().run
            await asyncio.get_running_loop().run_in_executor(threads, call, new_logger().info, "letter.stamped")

    async def inner() -> None:
        new_logger().info("letter.written", id="mine")

    await asyncio.gather(run("1"), run("2"))
    new_logger().info("thing.happened")

    said = lines()
    by_event = {event: [line for line in said if line["event"] == event] for event in {line["event"] for line in said}}
    assert sorted(line["id"] for line in by_event["letter.sent"]) == ["1", "2"]
    assert sorted(line["id"] for line in by_event["letter.stamped"]) == ["1", "2"]
    foreign = by_event["sent to ada"]
    assert sorted(line["id"] for line in foreign) == ["1", "2"]
    assert {(line["logger"], line["level"], line["size"]) for line in foreign} == {("myapp.mail", "info", 3)}
    assert [line["id"] for line in by_event["letter.written"]] == ["mine", "mine"]
    assert "id" not in by_event["thing.happened"][0]


def test_libraries_are_heard_from_warning_on_and_handlers_as_the_level_says(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").warning("trouble")
    logging.getLogger("myapp.jobs").info("news")
    logging.getLogger("myapp.jobs").debug("detail")
    logging.getLogger("pymongo.topology").error("reported by the store's own lines")

    assert [(line["event"], line["logger"]) for line in lines()] == [
        ("trouble", "uvicorn.error"),
        ("news", "myapp.jobs"),
    ]


def test_a_line_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    configure_logs(settings())

    new_logger().info(LogEvent.TASK_STARTED, task_type="a.b", id="1", attempt=1)
    logging.getLogger("a.library").warning("goes on")
