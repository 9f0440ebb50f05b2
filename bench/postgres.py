"""A PostgreSQL cluster of its own, for the peer that needs one."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers import Server

HOW_TO_GET_ONE = "install PostgreSQL: sudo apt-get install postgresql (make bench does)"


def programs() -> Path:
    """The folder of initdb and postgres; distributions keep it off the PATH.

    Raises:
        RuntimeError: PostgreSQL is not installed.
    """
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: float(each.parent.name)):
        if (folder / "initdb").exists():
            found = folder
            break
    else:
        initdb = shutil.which("initdb")
        if initdb is None:
            raise RuntimeError(f"Procrastinate needs a PostgreSQL server, and there is none; {HOW_TO_GET_ONE}")
        found = Path(initdb).resolve().parent
    return found


class PostgresServer(Server):
    """Durable as PostgreSQL is by default: fsync and synchronous_commit are on."""

    USER = "bench"

    def __init__(self) -> None:
        # Beside the folder of the other servers: PostgreSQL refuses to run as root, and its user may not enter theirs.
        super().__init__(Path(tempfile.mkdtemp(prefix="verger-bench-postgres-")))
        self._bin = programs()
        if os.getuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                raise RuntimeError(
                    f"PostgreSQL refuses to run as root, and there is no user postgres; {HOW_TO_GET_ONE}"
                ) from None
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.USER}@127.0.0.1:{self.port}/{database}"

    def spawn(self) -> None:
        if not (self.folder / "data").exists():
            made = subprocess.run(
                self._as_user(
                    str(self._bin / "initdb"),
                    "-D",
                    self._data,
                    "-U",
                    self.USER,
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C",
                ),
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode != 0:
                raise RuntimeError(f"initdb failed: {made.stderr.strip()}")
        super().spawn()

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _command(self) -> list[str]:
        settings = (
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
        )
        chosen = [word for setting in settings for word in ("-c", setting)]
        return self._as_user(str(self._bin / "postgres"), "-D", self._data, *chosen)

    def _as_user(self, *command: str) -> list[str]:
        # To change the user clears the tie to the parent, so that is tied again.
        user = ("--reuid=postgres", "--regid=postgres", "--clear-groups") if os.getuid() == 0 else ()
        return ["setpriv", *user, "--pdeathsig=KILL", *command]

    async def _settled(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)
            )
            if await process.wait() == 0:
                return
            await asyncio.sleep(0.05)
