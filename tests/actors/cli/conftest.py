"""One embedded instance for all tests of the command line, and a way to call it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors.cli.app import app
from service.child_process import ending_with_parent

ROOT = Path(__file__).parents[3]
HANDLERS = "tests.actors.cli.handlers"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return loads(self.out)


def verger(*arguments: str, given: str | None = None) -> Answer:
    """Run a command in this process; an error that is no answer is raised."""
    result = CliRunner().invoke(app, list(arguments), input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def good(*arguments: str, given: str | None = None) -> Answer:
    """Run a command that is expected to succeed."""
    answer = verger(*arguments, given=given)
    assert answer.code == 0, answer.err
    return answer


def spawn(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Run a command as a process of its own, which ends with this one."""
    return subprocess.Popen(
        ending_with_parent(sys.executable, "-W", "error", "-m", "actors.cli", *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until something shows from outside."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of the tests' own, and tables as wide as where there is no terminal."""
    for name in os.environ:
        if name.startswith("VERGER_") and name != "VERGER_MONGOD":
            monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("VERGER_ACTORS", HANDLERS)
    monkeypatch.setenv("VERGER_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def running_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a ``verger dev`` that runs."""
    folder = tmp_path_factory.mktemp("cli")
    data, output = folder / "data", folder / "output"
    with output.open("wb") as target:
        process = subprocess.Popen(
            ending_with_parent(sys.executable, "-W", "error", "-m", "actors.cli", "dev"),
            cwd=ROOT,
            env={
                **os.environ,
                "VERGER_ACTORS": HANDLERS,
                "VERGER_DATA_DIR": str(data),
                "VERGER_STALE_CLAIM_TIMEOUT": "3s",
            },
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "is ready" in output.read_text() or process.poll() is not None, "verger dev to be ready")
        assert process.poll() is None, output.read_text()
        yield data
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def instance(running_instance: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of this test find the running instance."""
    monkeypatch.setenv("VERGER_DATA_DIR", str(running_instance))
    return running_instance
