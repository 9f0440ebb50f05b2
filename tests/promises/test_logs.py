"""What real processes write into their logs, and what never gets there."""

import asyncio
import json
import signal

import pika

from schemas.task import TaskStatus
from tests.promises.installation import Installation, Process

SECRET = "hunter2-hunter2"


async def end(process: Process) -> str:
    """Its whole output, after it has drained."""
    process.signal(signal.SIGTERM)
    await process.ended()
    return process.log_file.read_text()


async def test_no_secret_of_bodies_headers_and_errors_is_logged_and_every_line_of_a_run_names_it(
    installation: Installation,
) -> None:
    process = await installation.start("scheduler,worker", environment={"VERGER_LOG_LEVEL": "debug"})
    task = await installation.client.enqueue("test.odd", {"kind": "tells", "api_key": SECRET}, max_attempts=1)
    headers = {"authorization": f"Bearer {SECRET}"}
    installation.publish(
        ("test.noop", json.dumps({"taskBody": SECRET}).encode(), pika.BasicProperties(headers=headers)),
        ("test.noop", f"password={SECRET}".encode(), pika.BasicProperties(headers=headers)),
        ("no.such.type", json.dumps({"taskBody": {"password": SECRET}}).encode(), None),
        ("test.work", json.dumps({"taskBody": {"seconds": SECRET}, "maxAttempts": 1}).encode(), None),
    )
    await installation.status(task.id, TaskStatus.FAILED)
    await installation.until(lambda: len(process.events("message.refused")) == 2, "the messages to be refused")
    await installation.until(lambda: bool(process.events("task.unknown_type")), "the unknown type to be noticed")
    await installation.until(lambda: len(process.events("task.failed")) == 2, "both tasks to fail")

    said = await end(process)

    assert SECRET not in said
    of_the_run = [line for line in process.log() if line.get("id") == task.id]
    events = ["task.started", "login.tried", "login with password=***", "task.failed", "task.finished"]
    assert [line["event"] for line in of_the_run] == events
    for line in of_the_run:
        assert (line["task_type"], line["attempt"]) == ("test.odd", 1)
    started, tried, foreign, failed, _ = of_the_run
    assert tried["worker"] == foreign["worker"] == process.events("worker.started")[0]["worker"]
    assert (foreign["logger"], foreign["cookie"]) == ("tests.handlers", "***")
    assert tried["request"] == {"headers": {"x-authorization": "***"}}
    assert failed["error"] == "login failed: token=*** at https://ada:***@example.org/"
    assert failed["traceback"][-1]["name"] == "odd"
    assert started["level"] == "info"


async def test_no_password_of_the_settings_is_logged_when_servers_refuse_it(installation: Installation) -> None:
    amqp = installation.amqp_url.replace("guest:guest", f"guest:{SECRET}")
    mongo = installation.mongo_url.replace("://", f"://ada:{SECRET}@")
    refused = [
        await installation.start(ready=False, environment={"VERGER_AMQP_URL": amqp}),
        await installation.start(ready=False, environment={"VERGER_MONGODB_URL": mongo}),
        await installation.start(ready=False, environment={"VERGER_AMQP_URL": f"amqp://guest:{SECRET}@127.0.0.1:1/"}),
    ]
    await installation.until(lambda: all(len(process.log()) >= 1 for process in refused), "each to say what is wrong")
    await asyncio.sleep(1)

    for process in refused:
        if process.alive:
            process.signal(signal.SIGTERM)
        await process.ended()
        said = process.log_file.read_text()
        assert said
        assert SECRET not in said
