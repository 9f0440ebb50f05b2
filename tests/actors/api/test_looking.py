"""Task types, workers, queues and the audit over HTTP."""

from typing import Any

import pytest

from actors.scheduler.prune import Prune
from schemas.access import AuditEntry
from schemas.duration import parse_duration
from service.audit import MOST_CHARACTERS, audit_entry
from service.errors import StoreUnavailable
from tests.actors.api.conftest import Api
from tests.brokers import eventually

# ---- task types ------------------------------------------------------------------------------------------------------


async def test_types_are_listed_with_what_they_are(api: Api) -> None:
    found = (await api.viewer.get("/admin/task-types")).json()["taskTypes"]

    echo = next(each for each in found if each["taskType"] == "api.echo")
    assert (echo["aliases"], echo["summary"], echo["slots"]) == (["say_it"], "Answer with what was sent.", 7)
    assert (echo["known"], echo["paused"], echo["workers"], echo["counts"]) == (True, False, 1, None)


async def test_counts_are_there_if_asked_for(api: Api) -> None:
    await api.client.enqueue("api.echo", id="a")
    await api.client.wait("a", "20s")
    await api.client.enqueue("elsewhere", id="b", delay="1h")

    found = (await api.viewer.get("/admin/task-types", params={"counts": "true"})).json()["taskTypes"]

    counts = {each["taskType"]: (each["known"], each["counts"]) for each in found}
    assert counts["api.echo"] == (True, {"completed": 1})
    assert counts["api.slow"] == (True, {})
    assert counts["elsewhere"] == (False, {"pending": 1})


async def test_a_paused_type_waits_until_it_is_resumed(api: Api) -> None:
    answer = await api.operator.post("/admin/task-types/Say It/pause")
    assert answer.json() == {"taskType": "api.echo", "paused": True}

    async def consumers() -> int:
        queues = (await api.viewer.get("/admin/queues")).json()["queues"]
        return int(next(queue["consumers"] for queue in queues if queue["taskType"] == "api.echo"))

    await eventually(consumers, 0)
    await api.client.enqueue("api.echo", id="a")
    [state] = [
        each
        for each in (await api.viewer.get("/admin/task-types")).json()["taskTypes"]
        if each["taskType"] == "api.echo"
    ]
    assert (state["paused"], state["pausedBy"]) == (True, "the-operator")

    await api.operator.post("/admin/task-types/api.echo/resume")

    await api.client.wait("a", "20s")
    entries = (await api.admin.get("/admin/audit")).json()["entries"]
    assert [(entry["action"], entry["target"], entry["before"], entry["after"]) for entry in entries] == [
        ("type.resume", "api.echo", {"paused": True}, {"paused": False}),
        ("type.pause", "api.echo", {"paused": False}, {"paused": True}),
    ]


async def test_a_type_that_nobody_knows_is_not_paused(api: Api) -> None:
    assert (await api.operator.post("/admin/task-types/nothing/pause")).status_code == 404


# ---- workers and queues ----------------------------------------------------------------------------------------------


async def test_workers_are_listed(api: Api) -> None:
    [worker] = (await api.viewer.get("/admin/workers")).json()["workers"]

    assert api.app.worker is not None
    assert worker["id"] == api.app.worker.id
    assert "api.echo" in worker["taskTypes"]


async def test_queues_are_listed(api: Api) -> None:
    await api.client.enqueue("api.echo", id="later", delay="10m")
    await api.client.enqueue("api.fails", id="dead")

    async def dead_letters() -> int:
        return int((await api.viewer.get("/admin/queues")).json()["deadLetters"])

    await eventually(dead_letters, 1)
    found = (await api.viewer.get("/admin/queues")).json()
    assert {queue["taskType"] for queue in found["queues"]} >= {"api.echo", "api.fails", "api.slow"}
    assert found["delayed"] >= 1


# ---- audit -----------------------------------------------------------------------------------------------------------


async def test_the_audit_is_paged_newest_first(api: Api) -> None:
    for number in range(5):
        await api.operator.post("/admin/tasks/api.echo", params={"id": f"t{number}"})

    first = (await api.admin.get("/admin/audit", params={"limit": 3})).json()
    await api.operator.post("/admin/tasks/api.echo", params={"id": "new"})
    second = (await api.admin.get("/admin/audit", params={"limit": 3, "cursor": first["cursor"]})).json()

    found = [entry["target"] for entry in first["entries"] + second["entries"]]
    assert found == ["t4", "t3", "t2", "t1", "t0"]
    assert second["cursor"] is None


async def test_a_change_stands_although_the_audit_is_away(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def away(_: AuditEntry) -> None:
        raise StoreUnavailable("MongoDB does not answer")

    monkeypatch.setattr(api.store.audit, "note", away)

    answer = await api.operator.post("/admin/tasks/api.echo", params={"id": "one"})

    assert answer.status_code == 201
    said = capsys.readouterr()
    assert "audit.noted" in said.out + said.err
    assert "audit.lost" in said.out + said.err


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"args": {"api_key": "x", "rows": 1}}, {"args": {"api_key": "***", "rows": 1}}),
        ({"taskBody": {"a": 1}}, {"taskBody": "***"}),
        ({"n": 2**70}, {"n": str(2**70)}),
        ({"a\0b": "\ud800"}, {"a\\0b": "\\ud800"}),
        ([1, None, True, "x"], [1, None, True, "x"]),
    ],
)
async def test_an_entry_hides_secrets_and_keeps_the_rest(api: Api, value: Any, kept: Any) -> None:
    entry = audit_entry(api.store.clock.now(), "ada", "schedule.replace", "s", value, None)

    await api.store.audit.note(entry)
    await api.store.audit.note(entry)  # as after a lost reply

    [found] = (await api.store.audit.find(limit=10)).entries
    assert found == entry
    assert found.before == kept


async def test_an_entry_is_bounded_and_ends_some_day(api: Api) -> None:
    now = api.store.clock.now()
    large = {f"key{number}": "x" * 1000 for number in range(100)}
    for age in ("3d", "2d", "1d"):
        await api.store.audit.note(audit_entry(now - parse_duration(age), "ada", "a.b", age * 1000, None, large))

    assert await api.store.audit.prune(now - parse_duration("36h"), 1) == 1
    assert await api.store.audit.prune(now - parse_duration("36h"), 10) == 1

    [left] = (await api.store.audit.find(limit=10)).entries
    assert left.target.startswith("1d")
    assert len(left.target) <= 1000
    assert len(left.after) <= MOST_CHARACTERS + 1


async def test_a_scheduler_prunes_the_audit(api: Api) -> None:
    now = api.store.clock.now()
    for number in range(3):
        age = api.app.settings.audit_retention * number / 1.5
        await api.store.audit.note(audit_entry(now - age, "ada", "a.b", f"t{number}", None, None))

    await Prune(api.store, api.app.broker, api.app.settings).tick()

    assert [entry.target for entry in (await api.store.audit.find(limit=10)).entries] == ["t0", "t1"]
