"""The dashboard: every query names what the code exposes, and shows something of a Verger that runs."""

import asyncio
import json
import math
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.composition import App, Role
from actors.scheduler import watch
from schemas.base import to_instant
from schemas.schedule import Schedule
from service.broker.port import Publication
from tests.actors.probing import probed
from tests.k8s.render import render
from tests.monitoring.prometheus import Prometheus, asked
from tests.monitoring.queries import PACK, ROOT, dashboard, faults, filled, panels, queries

SECONDS = 300.0


@pytest.mark.parametrize(("place", "query"), list(queries()))
def test_every_query_names_what_the_code_exposes(place: str, query: str) -> None:
    assert faults(query) == []


@pytest.mark.parametrize(
    "query",
    [
        "verger_tasks_ended_total",
        'verger_slots{task="a"}',
        "sum by (outcome) (verger_slots)",
        "verger_task_run_seconds",
        "process_memory_bytes",
    ],
)
def test_a_query_of_what_is_not_there_is_found(query: str) -> None:
    assert faults(query)


@pytest.mark.parametrize("page", ["docs/operate.md", "docs/metrics.md"])
def test_the_queries_in_the_documentation_name_what_the_code_exposes(page: str) -> None:
    blocks = re.findall(r"^```promql\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    assert blocks
    assert [fault for block in blocks for fault in faults(block)] == []


def test_the_dashboard_asks_for_nothing_that_grafana_does_not_bring() -> None:
    found = dashboard()
    variables = {each["name"] for each in found["templating"]["list"]}

    assert {panel["type"] for panel in found["panels"]} <= {"row", "stat", "timeseries", "table"}
    assert "__inputs" not in found and "id" not in found
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(each["datasource"] == source for panel in panels() for each in (panel, *panel["targets"]))
    used = {name for panel in panels() for name in re.findall(r"\$(\w+)", json.dumps(panel["targets"]))}
    assert used - {"__rate_interval"} <= variables
    for variable in found["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            assert faults(f'{metric}{{{label}=""}}') == []


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    found = dashboard()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in found)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in found}) == len(found)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_an_overlay_that_names_the_component_gets_the_alerts_and_the_dashboard(tmp_path: Path) -> None:
    shutil.copytree(PACK, tmp_path / "monitoring")
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\ncomponents: [monitoring]\n"
    )

    built = {each["kind"]: each for each in render(tmp_path)}

    assert set(built) == {"ConfigMap", "PrometheusRule"}
    assert built["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(built["ConfigMap"]["data"]["verger.json"]) == dashboard()


# ---- a real Prometheus, and a Verger that it scrapes


async def work(app: App) -> None:
    """Some of all that happens, until it is cancelled."""
    twice = b'{"taskBody": {"seconds": 60}, "taskName": "only"}'
    while True:
        for task_type in ("test.noop", "test.noop", "test.flaky"):
            await app.client.enqueue(task_type, {})
        await app.client.enqueue("test.fails", {}, max_attempts=1)
        await app.broker.publish([Publication("test.work", twice)])
        await asyncio.sleep(0.5)


@pytest.fixture
async def http(
    mongo_url: str, amqp_url: str, database: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """Asks a Prometheus that scrapes a Verger with work to do."""
    monkeypatch.setattr(watch, "EVERY", watch.EVERY / 60)
    roles, grace = [Role.SCHEDULER, Role.WORKER], timedelta(seconds=1)
    async with probed(mongo_url, amqp_url, database, prefix, roles, shutdown_grace=grace) as verger:
        app = verger.app
        now = to_instant(app.store.clock.now())
        given: dict[str, Any] = {"schedule": "@every 1s", "next_fire_at": now, "created_at": now, "revision": 0}
        fires = Schedule(id="fires", task_type="test.noop", **given)
        skips = Schedule(id="skips", task_type="test.work", task_body={"seconds": 60}, **given)
        await app.store.schedules.write([fires, skips])
        app.wake()
        assert app.health_server is not None
        prometheus = Prometheus(tmp_path, f"127.0.0.1:{app.health_server.port}")
        working = asyncio.create_task(work(app))
        try:
            await prometheus.ready()
            async with httpx.AsyncClient(base_url=prometheus.url, trust_env=False, timeout=30) as http:
                yield http
        finally:
            prometheus.stop()
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


async def test_every_panel_shows_data_and_every_alert_can_be_evaluated(http: httpx.AsyncClient) -> None:
    left = {
        (panel["title"], target["refId"]): filled(target["expr"]) for panel in panels() for target in panel["targets"]
    }
    assert len(left) > 30
    with suppress(TimeoutError):  # what is left says more
        async with asyncio.timeout(SECONDS):
            while left:
                for place, query in list(left.items()):
                    if has_data(await asked(http, "query", query=query.removesuffix(" or vector(0)"))):
                        del left[place]
                await asyncio.sleep(0.5)
    assert left == {}

    groups = (await asked(http, "rules"))["groups"]
    assert [(rule["name"], rule["lastError"]) for rule in groups[0]["rules"] if rule["health"] == "err"] == []
    alerts = (await asked(http, "alerts"))["alerts"]
    assert "VergerDeadLetters" in {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}
    assert "VergerNobodyWorks" not in {each["labels"]["alertname"] for each in alerts}


def has_data(answer: dict[str, Any]) -> bool:
    """A number: a quantile of nothing is none."""
    return any(not math.isnan(float(series["value"][1])) for series in answer["result"])
