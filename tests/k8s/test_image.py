"""The image, without an engine: its first stage is carried out in a folder; what comes out starts as in a container."""

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import httpx
import pytest
import yaml

from service.child_process import free_port
from service.registry import load
from service.settings import Settings
from service.version import VERSION
from tests.k8s.dockerfile import DOCKERFILE, Stage, pairs
from tests.k8s.lock import locked, wanted
from tests.k8s.render import ROOT

USER = 65532
PATIENCE = 300.0
EXTRAS = "none"
"""The smallest image: lancedb alone would take minutes."""


@pytest.fixture
def root() -> Iterator[Path]:
    """What ``/`` is in the image. Others may look into it, as into no folder of pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="verger-image-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def other_user() -> dict[str, object]:
    """How a process is started as the user of the image; who is not root is no root already."""
    return {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}


def python() -> str:
    """An interpreter that every user may run, and that can make environments."""
    look = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    for each in (getattr(sys, "_base_executable", ""), "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            if subprocess.run([each, "-c", look], check=False, capture_output=True, **other_user()).returncode == 0:  # type: ignore[call-overload]
                return str(each)
        except OSError:
            continue
    raise RuntimeError("no Python 3.11 that every user may run is here; apt-get install python3 python3-venv")


def build(stage: Stage, root: Path, environment: dict[str, str]) -> None:
    """Carry out its steps with ``root`` for ``/``."""
    here = root
    arguments = {**DOCKERFILE.arguments, **pairs(stage, "ARG", {}), "EXTRAS": EXTRAS}
    for word, rest in stage.steps:
        match word:
            case "WORKDIR":
                here = root / rest.lstrip("/")
                here.mkdir(parents=True)
            case "COPY":
                *sources, _ = rest.split()
                for source in sources:
                    copy(source, here)
            case "RUN":
                command = re.sub(r"--mount=\S+ ", "", expanded_arguments(rest, arguments))
                # What begins with / and is made by a step of this stage; the caches of pip stay where they are.
                command = re.sub(r"(?<![\w.])/(wheels|opt)\b", rf"{root}/\1", command)
                told = subprocess.run(
                    ["sh", "-ec", command],
                    cwd=here,
                    env={**environment, **pairs(stage, "ENV", environment)},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert told.returncode == 0, f"{command}\n{told.stdout[-2000:]}\n{told.stderr[-4000:]}"


def expanded_arguments(text: str, arguments: dict[str, str]) -> str:
    """Only those of the build: the shell knows its own."""
    return re.sub(r"\$\{(\w+)\}", lambda found: arguments.get(found[1], found[0]), text)


def copy(source: str, target: Path) -> None:
    """As Docker does, which leaves out what .dockerignore says."""
    path = ROOT / source
    assert not ignored(source), f".dockerignore leaves out {source}"
    if path.is_dir():
        shutil.copytree(
            path, target / source, ignore=lambda _, names: [name for name in names if ignored(f"{source}/{name}")]
        )
    else:
        shutil.copy(path, target / source)


def ignored(path: str) -> bool:
    """As the last line of .dockerignore that matches says: names alone, of a folder's content after ``**/``."""
    found = False
    names = PurePosixPath(path).parts
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        looked_at = names if pattern.startswith("**/") else names[:1]
        if pattern and any(fnmatch.fnmatch(name, pattern.removeprefix("**/")) for name in looked_at):
            found = not line.startswith("!")
    return found


def test_what_is_built_starts_read_only_as_nobody_and_answers_probes(
    root: Path, mongo_url: str, amqp_url: str, database: str, prefix: str
) -> None:
    base = root / "python"
    subprocess.run([python(), "-m", "venv", str(base)], check=True)
    first, final = DOCKERFILE.stages
    build(first, root, {**os.environ, "PATH": f"{base / 'bin'}:{os.environ['PATH']}"})
    data = root / "var" / "lib" / "verger"
    data.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(data, USER, USER)
    code = root / "opt" / "verger"
    for path in [code, *code.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    before = contents(code)
    assert any(path.suffix == ".pyc" for path in before)

    given = {"PATH": f"{base / 'bin'}:/usr/bin:/bin"}
    port = free_port()
    environment = {
        **given,
        **{name: inside(value, root) for name, value in DOCKERFILE.environment(given).items()},
        "VERGER_MONGODB_URL": mongo_url,
        "VERGER_AMQP_URL": amqp_url,
        "VERGER_DATABASE": database,
        "VERGER_PREFIX": prefix,
        "VERGER_ROLES": "worker",
        "VERGER_HEALTH_PORT": str(port),
    }
    program = shutil.which(DOCKERFILE.entrypoint[0], path=environment["PATH"])
    assert program == str(code / "bin" / "verger")
    log = root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # type: ignore[call-overload]
            [program, *words(final, "CMD")],
            cwd=data,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **other_user(),
        )
    try:
        assert answers(f"http://127.0.0.1:{port}/healthz", process, log) == {"status": "ok"}
        assert answers(f"http://127.0.0.1:{port}/readyz", process, log) == {"status": "ok"}
        [healthcheck] = final.said("HEALTHCHECK")
        check = [str(word) for word in yaml.safe_load(healthcheck.partition("CMD ")[2])]
        assert subprocess.run(check, env=environment, check=False, timeout=PATIENCE).returncode == 0
        if os.geteuid() == 0:
            assert Path(f"/proc/{process.pid}").stat().st_uid == USER
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
    [started] = [line for line in log.read_text().splitlines() if '"verger.started"' in line]
    assert json.loads(started)["roles"] == ["worker"]
    assert contents(code) == before


def inside(value: str, root: Path) -> str:
    """A path of the image, here; system folders are those of this machine."""
    return re.sub(r"(?<![\w.])/(opt|var)/", rf"{root}/\1/", value)


def words(stage: Stage, word: str) -> Sequence[str]:
    [said] = stage.said(word)
    return [str(each) for each in yaml.safe_load(said)]


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def answers(url: str, process: "subprocess.Popen[bytes]", log: Path) -> object:
    """What it says with 200."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            answer = httpx.get(url, trust_env=False, verify=False, timeout=30)
            if answer.status_code == 200:
                return answer.json()
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"no answer from {url}: {log.read_text()[-4000:]}")


# ---- what the files say -------------------------------------------------------------------------


def test_the_image_runs_as_nobody_without_a_shell_between_and_says_what_it_is() -> None:
    final = DOCKERFILE.final

    assert final.said("USER") == [f"{USER}:{USER}"]
    assert DOCKERFILE.entrypoint == ["verger"]
    assert words(final, "CMD") == ["run"]
    assert pairs(final, "LABEL", {})["org.opencontainers.image.version"] == VERSION
    assert {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"} <= set(DOCKERFILE.environment({}))
    for name in DOCKERFILE.environment({}, only="VERGER_"):
        assert name.removeprefix("VERGER_").lower() in Settings.model_fields
    # One Python for both, of a version that is named, and nothing of a compiler.
    assert {stage.image for stage in DOCKERFILE.stages} == {"python:${PYTHON}"}
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", DOCKERFILE.arguments["PYTHON"])
    assert not re.search(r"gcc|build-essential|\bmake\b|-dev\b", " ".join(final.said("RUN")))


def test_only_what_the_dockerfile_copies_goes_to_the_engine() -> None:
    copied = {source for rest in DOCKERFILE.stages[0].said("COPY") for source in rest.split()[:-1]}

    assert {path.name for path in ROOT.iterdir() if not ignored(path.name)} == copied


def test_the_image_holds_versions_that_verger_asks_for() -> None:
    """If it fails: scripts/lock."""
    versions = locked()

    for requirement in wanted():
        assert versions[requirement.name.lower()] in requirement.specifier, requirement


# ---- compose ------------------------------------------------------------------------------------


def services() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def test_compose_names_settings_commands_and_files_that_are_there() -> None:
    for name, service in services().items():
        image, command = str(service["image"]), service.get("command")
        assert re.search(r":\d", image), f"{name} has an image of any version"
        if image.startswith("verger:"):
            assert image == f"verger:{VERSION}"
            environment = service["environment"]
            assert isinstance(environment, dict)
            for variable in environment:
                assert variable.removeprefix("VERGER_").lower() in Settings.model_fields
            assert (service["user"], service["read_only"]) == (f"{USER}:{USER}", True)
            assert isinstance(command, list)
            assert command[:2] in (["run", "--roles"], ["schedules", "apply"])
        for volume in service.get("volumes", []):  # type: ignore[attr-defined]
            source = str(volume).partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists()


def test_compose_tries_a_task_type_that_there_is() -> None:
    text = (ROOT / "compose.yaml").read_text()
    types = {handler.task_type for handler in load(Settings.model_fields["actors"].default)}

    tried = re.findall(r"verger enqueue (\S+)", text)
    assert tried
    assert set(tried) <= types
