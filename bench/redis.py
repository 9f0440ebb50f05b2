"""A Redis of its own, for the peer that needs one."""

import shutil

from tests.servers import Server

HOW_TO_GET_ONE = "install Redis: sudo apt-get install redis-server (make bench does)"


class RedisServer(Server):
    """Keeps what it is told in its append-only file, written to the disk each second, as Redis recommends."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError(f"taskiq with results needs a Redis server, and there is none; {HOW_TO_GET_ONE}")
        network = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        return [program, *network, "--appendonly", "yes", "--appendfsync", "everysec"]

    async def _settled(self) -> None:
        """It serves as soon as it listens."""
