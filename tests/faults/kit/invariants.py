"""What must hold whatever happened, checked from outside: by the ledger, the records and the server's log of writes."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from schemas.task import TaskStatus
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.oplog import State
from tests.promises.installation import PATIENCE


@dataclass
class Findings:
    """Ids that something happened to that must not, and what else is wrong."""

    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    """Two claims lived at the same time, or two ends were accepted."""
    broken: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.broken)


async def check(
    fleet: Fleet,
    accepted: Collection[str],
    *,
    replayed: Collection[str] = (),
    seconds: float = PATIENCE,
    sentinel: bool = True,
) -> Findings:
    """Wait until all that was accepted has ended, then look at everything; fails unless all is clean.

    Args:
        replayed: Ids that were replayed or asked for again on purpose: they may rise from an end.
        sentinel: Prove with one more task that somebody still consumes.
    """
    accepted = set(accepted)
    try:
        await fleet.ended(accepted, seconds)
    except AssertionError:
        print(fleet.describe())  # which are lost is said below
    if sentinel:
        last = await fleet.client.enqueue("fault.work", {"value": "sentinel"})
        await fleet.status(last.id, TaskStatus.COMPLETED, seconds)
    findings = look(fleet, accepted, replayed)
    assert findings.clean, findings
    return findings


def look(fleet: Fleet, accepted: Collection[str], replayed: Collection[str] = ()) -> Findings:
    """As things are now."""
    states = fleet.oplog.read().states
    findings = Findings(tasks=len(accepted))
    findings.lost = [
        task_id for task_id in accepted if not states.get(task_id) or not _finished(states[task_id][-1].status)
    ]
    for task_id, history in states.items():
        follow(findings, task_id, history, may_rise=task_id in replayed)
    _compare_with_ledger(findings, fleet)
    return findings


def _finished(status: str) -> bool:
    return TaskStatus(status).finished


def follow(findings: Findings, task_id: str, history: Sequence[State], may_rise: bool) -> None:
    """One task's states, in order."""
    for state in history:
        if state.max_attempts is not None and state.attempt > state.max_attempts:
            findings.broken.append(f"{task_id}: attempt {state.attempt} of {state.max_attempts}")
    ends = int(_finished(history[0].status))
    for before, after in pairwise(history):
        claimed = after.status == "running" and (before.status, before.token) != ("running", after.token)
        if claimed and before.status != "pending":
            findings.doubled.append(task_id)
        if after.fence != before.fence + claimed:
            findings.broken.append(
                f"{task_id}: fence {before.fence} to {after.fence}, {before.status} to {after.status}"
            )
        if _finished(before.status) and not _finished(after.status) and not may_rise:
            findings.broken.append(f"{task_id}: {before.status} to {after.status} without a replay")
        ends += _finished(after.status) and before.status != after.status
    if ends > 1 and not may_rise:
        findings.doubled.append(task_id)


def _compare_with_ledger(findings: Findings, fleet: Fleet) -> None:
    """A claim is run once; what was accepted as completed is what the last claim did."""
    completed = list(
        fleet.tasks.find({"status": "completed"}, {"fence": 1, "result": 1})
    )  # before what they did is read
    starts = Counter((line.task, line.fence) for line in fleet.ledger.lines("start"))
    findings.doubled += [task_id for (task_id, _), count in starts.items() if count > 1]
    effects = {(line.task, line.fence) for line in fleet.ledger.lines("effect")}
    for task in completed:
        accepted = (task.get("result") or {}).get("fence")
        if accepted != task["fence"]:
            findings.broken.append(
                f"{task['_id']}: the result of fence {accepted} was accepted, not of {task['fence']}"
            )
        if (task["_id"], task["fence"]) not in effects:
            findings.broken.append(f"{task['_id']}: completed, and the run of fence {task['fence']} did nothing")


def check_fires(fleet: Fleet, schedule_id: str, start: datetime, every: timedelta, count: int) -> None:
    """Each of the first ``count`` instants made its one task, and nothing else did before the next."""
    instants = [start + number * every for number in range(count)]
    expected = {f"fire:{schedule_id}@{instant.isoformat().replace('+00:00', 'Z')}" for instant in instants}
    made = {task_id for task_id in fleet.oplog.read().states if task_id.startswith(f"fire:{schedule_id}@")}
    assert not expected - made, f"missed: {sorted(expected - made)}"
    beyond = f"fire:{schedule_id}@{(start + count * every).isoformat().replace('+00:00', 'Z')}"
    assert not (early := {each for each in made - expected if each < beyond}), f"fired besides: {sorted(early)}"
