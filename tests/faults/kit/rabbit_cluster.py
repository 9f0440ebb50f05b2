"""A cluster of three real RabbitMQ nodes, of which a test may kill, stop and cut off any."""

import asyncio
import secrets
from collections.abc import Iterable
from pathlib import Path

from tests.servers import READY_SECONDS, RabbitServer

SIZE = 3


class RabbitNode(RabbitServer):
    """One node. All nodes of a cluster share a cookie and the name service of the first."""

    def __init__(self, folder: Path, number: int, cookie: str, first: "RabbitNode | None") -> None:
        super().__init__(folder)
        self.NODE = f"verger-{number}@localhost"
        self._cookie = cookie
        self._first = first
        if first is not None:
            self._epmd_port = first._epmd_port

    def _write_configuration(self) -> None:
        super()._write_configuration()
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        formation = [
            "cluster_formation.peer_discovery_backend = classic_config",
            *(f"cluster_formation.classic_config.nodes.{n} = verger-{n}@localhost" for n in range(1, SIZE + 1)),
            "cluster_partition_handling = pause_minority",
        ]
        with (self.folder / "rabbitmq.conf").open("a") as configuration:
            configuration.writelines(f"{line}\n" for line in formation)

    def _start_name_service(self) -> None:
        if self._first is None:
            super()._start_name_service()
        else:
            self._epmd = self._first._epmd

    async def members(self) -> int:
        """How many nodes run in the cluster, as this one sees it."""
        said = await self._eval("length([Node || Node <- [node() | nodes()], rabbit:is_running(Node)]).")
        return int(said.strip("{}ok, \n"))

    async def sees(self, *others: "RabbitNode") -> bool:
        """Whether it is connected with any of them."""
        known = await self._eval("nodes().")
        return any(other.NODE in known for other in others)

    async def refuse(self, *others: "RabbitNode") -> None:
        """Let them in no more, once they are lost."""
        await self._expect(f"not of {self.NODE}", others)

    async def accept(self, *others: "RabbitNode") -> None:
        await self._expect(self._cookie, others)
        await self._eval(" ".join(f"net_kernel:connect_node('{other.NODE}')," for other in others) + " ok.")

    async def lose(self, *others: "RabbitNode") -> None:
        """All of them at once, as if the network between had gone, while clients reach both sides."""
        await self._eval(" ".join(f"erlang:disconnect_node('{other.NODE}')," for other in others) + " ok.")

    async def _expect(self, cookie: str, others: Iterable["RabbitNode"]) -> None:
        await self._eval(" ".join(f"erlang:set_cookie('{other.NODE}', '{cookie}')," for other in others) + " ok.")

    async def _dead_lettering_settled(self) -> bool:
        """Not asked: a queue's worker lives where its leader does, and the cluster ends with these tests."""
        return True


class RabbitCluster:
    """Three nodes; a quorum queue has a member on each."""

    def __init__(self, folder: Path) -> None:
        cookie = secrets.token_hex(10).upper()
        first = RabbitNode(folder / "node-1", 1, cookie, None)
        self.nodes = [first, *(RabbitNode(folder / f"node-{n}", n, cookie, first) for n in range(2, SIZE + 1))]
        self._begun = False

    @property
    def url(self) -> str:
        """Of one node; each has its own."""
        return self.nodes[1].url

    async def delete(self, prefix: str) -> None:
        """Delete all queues and exchanges whose names begin with ``prefix.``."""
        await self.nodes[1].delete(prefix)

    async def ready(self) -> None:
        """Return once the three are a cluster; starts them if they were not."""
        if self._begun:
            return
        self._begun = True
        for node in self.nodes:
            node.spawn()
        await asyncio.gather(*(node.ready() for node in self.nodes))
        await self.whole()

    async def whole(self) -> None:
        """Return once every node sees all nodes."""
        async with asyncio.timeout(READY_SECONDS):
            for node in self.nodes:
                while await self._members(node) != SIZE:
                    await asyncio.sleep(0.2)

    async def _members(self, node: RabbitNode) -> int:
        try:
            return await node.members()
        except RuntimeError:  # it is starting
            return 0

    async def leader(self, queue: str, *, other_than: RabbitNode | None = None) -> RabbitNode:
        """Where the leader of a quorum queue lives, as the others see it; waits for one that is not ``other_than``."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                for asked in (node for node in self.nodes if node is not other_than):
                    said = await self._leader_as_seen_by(asked, queue)
                    for node in self.nodes:
                        if node is not other_than and f"'{node.NODE}'" in said:
                            return node
                await asyncio.sleep(0.1)

    async def _leader_as_seen_by(self, asked: RabbitNode, queue: str) -> str:
        try:
            return await asked._eval(
                f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)), '
                "element(2, amqqueue:get_pid(Q))."
            )
        except RuntimeError:  # it is starting, or paused
            return ""

    async def cut_off(self, node: RabbitNode) -> None:
        """A partition: the others and this node do not see each other any more. The minority pauses itself."""
        others = [other for other in self.nodes if other is not node]
        await node.refuse(*others)
        for other in others:
            await other.refuse(node)
        await node.lose(*others)  # one after the other, it would be a partial partition, after which two nodes pause
        async with asyncio.timeout(READY_SECONDS):
            while await node.sees(*others):
                await asyncio.sleep(0.1)

    async def heal(self) -> None:
        """All nodes run again, and see each other."""
        for node in self.nodes:
            await node.heal()
        for node in self.nodes:
            await node.accept(*(other for other in self.nodes if other is not node))
        await self.whole()

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.stop()
