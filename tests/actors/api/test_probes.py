"""The admin API answers probes as the small port does, and shows metrics to who has a key."""

import pytest

from tests.actors.api.conftest import Api


async def test_probes_need_no_key(api: Api) -> None:
    assert (await api.stranger.get("/healthz")).json() == {"status": "ok"}
    ready = await api.stranger.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ok"})


async def test_a_process_that_is_not_ready_says_why(api: Api) -> None:
    api.app.health.state = "draining"

    ready = await api.stranger.get("/readyz")

    assert ready.status_code == 503
    assert ready.json()["problems"] == [{"part": "process", "problem": "it is draining"}]
    assert (await api.stranger.get("/healthz")).status_code == 200


async def test_metrics_are_for_viewers(api: Api) -> None:
    assert (await api.stranger.get("/metrics")).status_code == 401

    page = await api.viewer.get("/metrics")

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'verger_info{roles="api,scheduler,worker"' in page.text
    assert "verger_queue_messages{" in page.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_nothing_can_be_changed_there(api: Api, path: str) -> None:
    assert (await api.admin.post(path)).status_code == 405
