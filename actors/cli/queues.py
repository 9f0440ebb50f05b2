"""``verger queues``: what waits on the broker."""

from actors.cli.options import Json
from actors.cli.output import plain, print_json, say, table
from actors.cli.session import talk
from actors.composition import Connection
from schemas.queue import Queues
from service.errors import BrokerUnavailable
from service.settings import MEMORY_BROKER


def queues(json: Json = False) -> None:
    """Show the queue of each task type, what waits for its time, and what is on the dead-letter queue."""

    async def read(connection: Connection) -> Queues:
        if connection.settings.amqp_url == MEMORY_BROKER:
            raise BrokerUnavailable(
                "the queues are inside the process of `verger dev`: ask its admin API, at the address it printed, for "
                "/admin/queues; or set VERGER_AMQP_URL"
            )
        return await connection.broker.look()

    found = talk(read, publishes=True)
    if json:
        print_json(plain(found))
        return
    table(
        ("TYPE", "READY", "CONSUMERS", "QUEUE"),
        [(queue.task_type, str(queue.ready), str(queue.consumers), queue.name) for queue in found.queues],
    )
    say(f"{found.delayed} wait for their time, {found.intake} for a decision, {found.dead_letters} are dead letters.")
