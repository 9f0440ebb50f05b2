"""What befalls a cluster of three brokers, under a load of real processes: nothing is lost, and nothing runs twice."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from actors.composition import task_types
from service.broker.names import Names
from service.broker.rabbitmq import RabbitBroker
from service.clock import SystemClock
from service.registry import load
from tests.faults.kit.fleet import HANDLERS, Fleet
from tests.faults.kit.load import PATIENCE
from tests.faults.kit.rabbit_cluster import RabbitCluster, RabbitNode
from tests.faults.kit.record import Recorder
from tests.faults.kit.trial import Bite, ran_once, suffer
from tests.promises.installation import PATIENT
from tests.servers import server_data

pytestmark = pytest.mark.long

Fault = Callable[[Fleet, RabbitCluster, RabbitNode], Awaitable[Bite]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RabbitCluster]:
    with server_data() as folder:
        made = RabbitCluster(Path(folder) / "cluster")
        yield made
        made.stop()


@pytest.fixture
async def rabbit_server(nodes: RabbitCluster) -> AsyncIterator[RabbitCluster]:
    """Takes the place of the lone broker."""
    await nodes.ready()
    yield nodes
    await nodes.heal()


@pytest.fixture
async def fleet(
    mongo_url: str, rabbit_server: RabbitCluster, database: str, prefix: str, tmp_path: Path
) -> AsyncIterator[Fleet]:
    """Its leaders are on the first node, where the queues were declared; it looks through the second."""
    declaring = RabbitBroker(rabbit_server.nodes[0].url, Names(prefix), SystemClock())
    await declaring.open(task_types(load([HANDLERS])))
    await declaring.close()
    made = Fleet(mongo_url, rabbit_server.url, database, prefix, tmp_path)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def killed(fleet: Fleet, cluster: RabbitCluster, node: RabbitNode) -> Bite:
    """kill -9 of the node with the queue's leader, later restarted"""
    begun = fleet.now()
    node.kill()
    bite = await taken_over(fleet, cluster, node, begun)
    await node.restart()
    return bite


async def stopped(fleet: Fleet, cluster: RabbitCluster, node: RabbitNode) -> Bite:
    """`stop_app` on the node with the queue's leader, later `start_app`"""
    begun = fleet.now()
    await node.ctl("stop_app")
    bite = await taken_over(fleet, cluster, node, begun)
    await node.ctl("start_app")
    return bite


async def cut_off(fleet: Fleet, cluster: RabbitCluster, node: RabbitNode) -> Bite:
    """the node with the queue's leader cut off from the two others"""
    begun = fleet.now()
    await cluster.cut_off(node)
    return await taken_over(fleet, cluster, node, begun)


async def frozen(fleet: Fleet, cluster: RabbitCluster, node: RabbitNode) -> Bite:
    """the node with the queue's leader stopped with SIGSTOP, later continued"""
    begun = fleet.now()
    node.freeze()
    bite = await taken_over(fleet, cluster, node, begun)
    node.thaw()
    return bite


async def taken_over(fleet: Fleet, cluster: RabbitCluster, lost: RabbitNode, begun: float) -> Bite:
    """Until the queue has another leader, and tasks have run that were enqueued since."""
    successor = await cluster.leader(fleet.names.queue("fault.work"), other_than=lost)
    ids = await fleet.enqueue(20)
    await fleet.ended(ids, PATIENCE)
    how = f"{lost.NODE} led the queue, {successor.NODE} took it over, and tasks ran before the node was back"
    return Bite(how, fleet.now() - begun)


@pytest.mark.parametrize("fault", [killed, stopped, cut_off, frozen])
async def test_the_loss_of_a_queues_leader_loses_nothing_and_costs_no_run(
    fleet: Fleet, record: Recorder, rabbit_server: RabbitCluster, fault: Fault
) -> None:
    queue = fleet.names.queue("fault.work")

    async def suffered(fleet: Fleet) -> Bite:
        leader = await rabbit_server.leader(queue)
        assert leader is rabbit_server.nodes[0]
        bite = await fault(fleet, rabbit_server, leader)
        await rabbit_server.heal()
        return bite

    first, second, third = ({"VERGER_AMQP_URL": node.url} for node in rabbit_server.nodes)
    load = await suffer(
        fleet,
        record,
        "Broker",
        f"cluster of three: {(fault.__doc__ or '').strip()}",
        suffered,
        environment=PATIENT,
        at={"scheduler": second, "first": first, "second": third},
    )

    ran_once(fleet, load)
