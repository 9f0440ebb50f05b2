"""An installation whose processes are made to suffer: they may die at a named step, and reach their servers through
proxies."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from schemas.task import TaskStatus
from service.client import NewTask
from service.registry import load
from tests.faults.kit.crash import CRASH, STEPS
from tests.faults.kit.ledger import LEDGER, Ledger
from tests.faults.kit.oplog import Oplog
from tests.promises.installation import PATIENCE, Installation, Process

HANDLERS = "tests.faults.handlers"


class Fleet(Installation):
    """Looks at its servers itself, directly; ``environment`` says what its processes are told, so there the addresses
    of proxies belong: ``fleet.environment["VERGER_AMQP_URL"] = proxy.url(fleet.amqp_url)``."""

    program = "tests.faults.kit.crash"

    def __init__(self, mongo_url: str, amqp_url: str, database: str, prefix: str, folder: Path) -> None:
        super().__init__(mongo_url, amqp_url, database, prefix, folder)
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.oplog = Oplog(mongo_url, database)
        self._stack.callback(self.oplog.close)
        self.registry = load([HANDLERS])
        self.environment |= {"VERGER_ACTORS": HANDLERS, LEDGER: str(self.ledger.path)}

    async def start(
        self,
        roles: str = "worker",
        *,
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        processes: int = 1,
        dies: str | None = None,
        survives: int = 0,
    ) -> Process:
        """As an Installation's; ``dies`` names the step of ``crash.STEPS`` at which it kills itself, after having
        survived so many."""
        environment = dict(environment or {})
        if dies is not None:
            assert dies in STEPS, dies
            environment[CRASH] = f"{dies}:{survives}"
        return await super().start(roles, ready=ready and dies is None, environment=environment, processes=processes)

    async def enqueue(self, count: int, seconds: float = 0, task_type: str = "fault.work", **body: Any) -> list[str]:
        """So many tasks through the client, whose confirmation is what makes them accepted."""
        tasks = await self.client.enqueue_many(
            [NewTask(task_type, {"seconds": seconds, "value": n, **body}) for n in range(count)]
        )
        return [task.id for task in tasks]

    # ---- looking ---------------------------------------------------------------------------------

    def started(self, ids: Collection[str] | None = None, pid: int | None = None) -> int:
        """How many runs have begun."""
        return sum((ids is None or line.task in ids) and pid in (None, line.pid) for line in self.ledger.lines("start"))

    def statuses(self, ids: Collection[str]) -> dict[str, str]:
        """Task id → status, of those that have a record."""
        found = self.tasks.find({"_id": {"$in": list(ids)}}, {"status": 1})
        return {task["_id"]: task["status"] for task in found}

    async def ended(self, ids: Collection[str], seconds: float = PATIENCE) -> None:
        """Until each of these has a record that has ended."""
        wanted = set(ids)

        def all_ended() -> bool:
            ends = {task_id for task_id, status in self.statuses(wanted).items() if TaskStatus(status).finished}
            return ends == wanted

        await self.until(all_ended, f"the end of {len(wanted)} tasks", seconds)

    async def died(self, process: Process, step: str) -> float:
        """Until it has killed itself at this step; when that was."""
        code = await process.ended()
        assert code == -9, (code, process.log()[-5:])
        [crash] = self.ledger.lines("crash", pid=process.pid)
        assert crash.detail == step
        return crash.at

    def recovery(self, since: float, ids: Collection[str]) -> float:
        """Seconds from a moment (monotonic) to the end of the last run of these tasks."""
        return max([since, *(line.at for line in self.ledger.lines("end") if line.task in ids)]) - since

    @staticmethod
    def now() -> float:
        """The ledger's clock."""
        return time.monotonic()
