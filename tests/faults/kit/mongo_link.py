"""The network between the members of a replica set: any may be cut off from any other, while clients reach them all."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from tests.faults.kit.proxy import CLEAN, Proxy, Toxic
from tests.servers import MongoServer

VANISHES = Toxic(black_hole=True)


class Links:
    """What is cut between which members: what one sends does not reach the other, and neither is told."""

    def __init__(self, nodes: Iterable[MongoServer]) -> None:
        self._nodes = list(nodes)
        self._cut: set[tuple[MongoServer, MongoServer]] = set()

    def cut(self, sender: MongoServer, receiver: MongoServer) -> None:
        """In this direction alone."""
        self._cut.add((sender, receiver))

    def mend(self) -> None:
        """All members hear each other again; TCP repeats what was under way."""
        self._cut.clear()

    def toxic(self, sender: MongoServer | None, receiver: MongoServer | None) -> Toxic:
        return VANISHES if (sender, receiver) in self._cut else CLEAN

    def member(self, near: int, far: int) -> MongoServer | None:
        """Whose connection goes from port ``near`` to ``far``; None: a client's."""
        if (socket := _socket(near, far)) is not None:
            for node in self._nodes:
                if node.alive and socket in _open_files(node.pid):
                    return node
        return None


class Link(Proxy):
    """The way to one member, by which its fellows and all clients come: its address in the set's configuration."""

    def __init__(self, node: MongoServer, links: Links) -> None:
        super().__init__(node.port)
        self._node = node
        self._links = links

    def _toxics(self, port: int) -> tuple[Callable[[], Toxic], Callable[[], Toxic]]:
        fellow, node, links = self._links.member(port, self.port), self._node, self._links
        return lambda: links.toxic(fellow, node), lambda: links.toxic(node, fellow)


def _socket(near: int, far: int) -> str | None:
    """The name, among a process's open files, of its end of a connection within this machine; None if it is gone."""
    ends = [f"0100007F:{near:04X}", f"0100007F:{far:04X}"]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == ends:
            return f"socket:[{fields[9]}]"
    return None


def _open_files(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):  # it has ended
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found.add(str(each.readlink()))
    return found
