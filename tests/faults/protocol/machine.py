"""The protocol machine: each step does one thing for real and in the model; both must answer and end alike."""

from collections.abc import Sequence
from typing import Any

from tests.faults.protocol.duties import Duties
from tests.faults.protocol.fires import Fires
from tests.faults.protocol.model import FINISHED, Record
from tests.faults.protocol.steps import Step
from tests.faults.protocol.work import Work
from tests.faults.protocol.world import PAST


class Machine(Work, Duties, Fires):
    """One walk."""

    def walk(self, steps: Sequence[Step]) -> None:
        for each in steps:
            getattr(self, each.name)(**each.arguments)
            self.both_are_in_the_same_state()

    def both_are_in_the_same_state(self) -> None:
        stored = self.world.tasks(self.model)
        expected = {record.id: shown(record) for record in self.model.records.values()}
        assert stored == expected, differences(stored, expected)
        schedules = self.world.schedules()
        assert schedules == {
            timing.id: {
                "revision": timing.revision,
                "enabled": timing.enabled,
                "next": timing.next,
                "firing": timing.firing,
                "skipped": dict(timing.skipped),
                "last": timing.last,
            }
            for timing in self.model.timings.values()
        }
        self.promises_hold(stored)
        self.before, self.replayed, self.pruned = stored, set(), False

    def promises_hold(self, stored: dict[str, dict[str, Any]]) -> None:
        """Without a look at the model."""
        live = [task["key"] for task in stored.values() if task["key"] is not None]
        assert len(live) == len(set(live)), "a live key belongs to two"
        for task_id, task in stored.items():
            if task["status"] == "pending":
                assert task["relay"] is not None, f"{task_id} is pending, and relay does not know"
            if task["status"] == "running":
                assert task["renewed"] is not None and task["token"] is not None
        for task_id, was in self.before.items():
            if task_id not in stored:
                assert self.pruned and was["status"] in FINISHED, f"{task_id} is gone, and was {was['status']}"
                continue
            task = stored[task_id]
            assert task["fence"] >= was["fence"]
            if was["status"] in FINISHED and task["status"] not in FINISHED:
                assert task_id in self.replayed, f"{task_id} had ended"
            if was["status"] == task["status"] == "running":
                assert was["token"] == task["token"], f"{task_id} changed hands while it ran"


def differences(stored: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{key}.{name}: stored {stored.get(key, {}).get(name)!r}, expected {expected.get(key, {}).get(name)!r}"
        for key in sorted(stored.keys() | expected.keys())
        for name in stored.get(key, {}) | expected.get(key, {})
        if stored.get(key, {}).get(name) != expected.get(key, {}).get(name)
    ]


def shown(record: Record) -> dict[str, Any]:
    return {
        "status": record.status,
        "attempt": record.attempt,
        "retries": record.retries,
        "fence": record.fence,
        "token": record.token,
        "again": record.again,
        "cancel": record.cancel,
        "forced": record.forced,
        "due": max(PAST, record.due),
        "relay": record.relay,
        "renewed": record.renewed,
        "ended": record.ended,
        "key": record.key if record.live else None,
        "ended_key": None if record.live else record.key,
    }
