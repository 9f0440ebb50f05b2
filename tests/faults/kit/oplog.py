"""Every state that a task was ever in, as the server's own log of writes tells it: from outside, and after the fact."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bson import Timestamp
from pymongo import MongoClient

WATCHED = ("status", "fence", "attempt", "maxAttempts", "claimToken", "again")


@dataclass(frozen=True)
class State:
    """A task after one write."""

    status: str
    fence: int
    attempt: int
    max_attempts: int | None
    token: str | None
    again: bool
    """Asked for once more: the end of such a run is a new one."""


class Oplog:
    """Reads on from where it was: call ``read`` now and then in a long test, since the log keeps only so much.

    Reads what a majority has, so a change of the primary takes nothing back.
    """

    def __init__(self, url: str, database: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(url, readConcernLevel="majority")
        self._namespace = f"{database}.tasks"
        self._read_until = Timestamp(0, 0)
        self._documents: dict[str, dict[str, Any]] = {}
        self.states: dict[str, list[State]] = defaultdict(list)
        """Task id → its states, one after each write that changed one."""
        self.deleted: set[str] = set()

    def close(self) -> None:
        self._client.close()

    def read(self) -> "Oplog":
        entries = self._client["local"]["oplog.rs"]
        mine = {"$or": [{"ns": self._namespace}, {"o.applyOps.ns": self._namespace}]}
        for entry in entries.find({"ts": {"$gt": self._read_until}, **mine}).sort("$natural", 1):
            self._read_until = entry["ts"]
            for each in _flat(entry):
                if each.get("ns") == self._namespace:
                    self._apply(each)
        return self

    def _apply(self, entry: Mapping[str, Any]) -> None:
        match entry["op"]:
            case "i":
                self._note(entry["o"]["_id"], dict(entry["o"]))
            case "u":
                task_id = entry["o2"]["_id"]
                if task_id not in self._documents:
                    raise AssertionError(f"the server's log no longer holds the insert of {task_id}; read it earlier")
                self._note(task_id, _changed(self._documents[task_id], entry["o"]))
            case "d":
                self._documents.pop(entry["o"]["_id"], None)
                self.deleted.add(entry["o"]["_id"])

    def _note(self, task_id: str, document: dict[str, Any]) -> None:
        kept = self._documents[task_id] = {name: document[name] for name in WATCHED if name in document}
        state = State(
            kept["status"],
            kept.get("fence", 0),
            kept.get("attempt", 0),
            kept.get("maxAttempts"),
            kept.get("claimToken"),
            kept.get("again", False),
        )
        if not self.states[task_id] or self.states[task_id][-1] != state:
            self.states[task_id].append(state)


def _flat(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Transactions and grouped inserts are one entry that holds others."""
    held = entry["o"].get("applyOps") if entry["op"] == "c" else None
    if held is None:
        yield entry
    for each in held or ():
        yield from _flat(each)


def _changed(document: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    if "diff" not in change:
        return dict(change)
    diff = change["diff"]
    return {name: value for name, value in document.items() if name not in diff.get("d", {})} | {
        name: value for part in ("u", "i") for name, value in diff.get(part, {}).items()
    }
