"""``verger workers``: who is there."""

from datetime import datetime

from actors.cli.moments import relative
from actors.cli.options import Json
from actors.cli.output import plain, print_json, say, table
from actors.cli.session import talk
from actors.composition import Connection
from schemas.duration import format_duration
from schemas.worker import Worker
from service.overview import SEEN_WITHIN, alive_workers


def workers(json: Json = False) -> None:
    """List the workers that were heard of in the last two minutes."""

    async def read(connection: Connection) -> tuple[list[Worker], datetime]:
        return await alive_workers(connection.store), connection.store.clock.now()

    found, now = talk(read)
    if json:
        print_json({"workers": [plain(worker) for worker in found]})
    elif found:
        table(
            ("WORKER", "RUNNING", "SLOTS", "SEEN", "UP", "VERSION", "TYPES"),
            [
                (
                    worker.id,
                    str(worker.running),
                    str(worker.slots),
                    relative(worker.seen_at, now),
                    relative(worker.started_at, now).removesuffix(" ago"),
                    worker.version,
                    ", ".join(worker.task_types),
                )
                for worker in found
            ],
        )
    else:
        say(f"No worker was heard of in the last {format_duration(SEEN_WITHIN)}; verger run starts one.")
