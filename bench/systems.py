"""All systems that are measured, and those that are not, with the reason."""

from bench.process import ROOT
from bench.stores import MakeStore, PostgresJobs, RedisResults, agenda_jobs, celery_results
from bench.system import System

PEERS = ROOT / "bench" / "peers"
BIN = PEERS / ".venv" / "bin"
AGENDA = PEERS / "agenda"
ONLY_THE_MESSAGE = "tasks and results: there is only the message, until it is acknowledged"


def _sender(module: str) -> tuple[str, ...]:
    return (str(BIN / "python"), "-m", f"bench.peers.{module}")


def _celery(processes: int, slots: int | None) -> list[list[str]]:
    command = [str(BIN / "celery"), "-A", "bench.peers.celery_app", "worker", "--loglevel", "WARNING"]
    if slots is None:
        return [[*command, "--pool", "prefork", "--concurrency", str(processes)]]
    names = [f"worker{number}@%h" for number in range(processes)]
    return [[*command, "--pool", "threads", "--concurrency", str(slots), "-n", name] for name in names]


def _dramatiq(processes: int, slots: int | None) -> list[list[str]]:
    command = [str(BIN / "dramatiq"), "bench.peers.dramatiq_app"]
    return [[*command, "--processes", str(processes), "--threads", str(slots or 8)]]


def _taskiq(processes: int, slots: int | None) -> list[list[str]]:
    command = [str(BIN / "taskiq"), "worker", "bench.peers.taskiq_app:broker", "--log-level", "WARNING"]
    return [[*command, "--workers", str(processes), "--max-async-tasks", str(slots or 100)]]


def _faststream(processes: int, slots: int | None) -> list[list[str]]:
    command = [str(BIN / "faststream"), "run", "bench.peers.faststream_app:app", "--log-level", "warning"]
    return [[*command, "--workers", str(processes)]]


def _procrastinate(processes: int, slots: int | None) -> list[list[str]]:
    command = [str(BIN / "procrastinate"), "--app", "bench.peers.procrastinate_app.app"]
    return [[*command, "--log-level", "warning", "worker", "--concurrency", str(slots or 20)]] * processes


def _agenda(processes: int, slots: int | None) -> list[list[str]]:
    return [["node", str(AGENDA / "worker.mjs"), str(slots or 100)]] * processes


def _celery_system(variant: str, title: str, lacks: str, count: int, store: MakeStore | None) -> System:
    return System(
        name="celery",
        variant=variant,
        title=title,
        setup="prefork pool, one child for each process (naps: one worker for each, with 100 threads), acks_late, "
        "prefetch multiplier 100, confirm_publish, durable classic queue",
        bulk="none; one producer kept over the batch, each message confirmed in turn",
        lacks=lacks,
        count=count,
        durable_results=store is not None,
        workers=_celery,
        sender=_sender("celery_app"),
        store=store,
        programs=(BIN / "celery",),
    )


def _taskiq_system(variant: str, title: str, lacks: str, count: int, store: MakeStore | None) -> System:
    return System(
        name="taskiq",
        variant=variant,
        title=title,
        setup="taskiq-aio-pika, 100 tasks at once in each process and as many prefetched, acknowledged when saved "
        "(its default), quorum queue (its default), confirms",
        bulk="none; a batch of 500 sent side by side, each message confirmed",
        lacks=lacks,
        count=count,
        durable_results=store is not None,
        workers=_taskiq,
        asyncio=True,
        sender=_sender("taskiq_app"),
        store=store,
        programs=(BIN / "taskiq",),
    )


def _verger_system(variant: str, title: str, setup: str, bulk: str) -> System:
    return System(
        name="verger",
        variant=variant,
        title=title,
        setup=f"{setup}; `verger run --roles worker` with its defaults (100 slots for each task type), quorum queue",
        bulk=bulk,
        lacks="nothing: task, body, every change of state and the result are in MongoDB",
        durable_results=True,
        asyncio=True,
    )


SYSTEMS = (
    _verger_system(
        "stored",
        "Verger, enqueued with its client",
        "stored in MongoDB before the publish",
        "`client.enqueue_many`, 500 at a time: stored, then published, each message confirmed",
    ),
    _verger_system(
        "message",
        "Verger, published as messages",
        "published by a plain aio-pika client with confirms; stored when it is claimed",
        "none; a batch of 500 sent side by side, each message confirmed",
    ),
    _celery_system("", "Celery", ONLY_THE_MESSAGE, 10_000, None),
    _celery_system(
        "mongodb",
        "Celery, results in MongoDB",
        "the task before its end: only its result is stored, after it has run",
        3_000,
        celery_results,
    ),
    System(
        name="dramatiq",
        variant="",
        title="Dramatiq",
        setup="8 threads in each process (its default; naps: 100), default middleware, confirm_delivery, durable "
        "classic queue, acknowledged after the run",
        bulk="none; each message confirmed in turn, as its groups do",
        lacks=ONLY_THE_MESSAGE,
        workers=_dramatiq,
        sender=_sender("dramatiq_app"),
        programs=(BIN / "dramatiq",),
    ),
    _taskiq_system("", "taskiq", ONLY_THE_MESSAGE, 20_000, None),
    _taskiq_system(
        "redis",
        "taskiq, results in Redis",
        "the task before its end: only its result is stored, after it has run; a crash of the machine may take the "
        "last second of results",
        8_000,
        RedisResults,
    ),
    System(
        name="faststream",
        variant="",
        title="FastStream",
        setup="RabbitMQ broker, 100 prefetched in each process, acknowledged after the handler, durable classic queue, "
        "confirms",
        bulk="none; a batch of 500 sent side by side, each message confirmed",
        lacks=ONLY_THE_MESSAGE,
        workers=_faststream,
        asyncio=True,
        sender=_sender("faststream_app"),
        programs=(BIN / "faststream",),
        headline=False,
    ),
    System(
        name="procrastinate",
        variant="",
        title="Procrastinate",
        setup="PostgreSQL with its default durability, 20 jobs at once in each process (naps: 100), a pool of up to 20 "
        "connections, notified of new jobs, finished jobs are kept",
        bulk="`batch_defer_async`, 500 at a time, one statement",
        lacks="results: the job and its states are rows, what it returned is not kept",
        count=4_000,
        durable_results=True,
        workers=_procrastinate,
        asyncio=True,
        sender=_sender("procrastinate_app"),
        store=PostgresJobs,
        programs=(BIN / "procrastinate",),
        headline=False,
    ),
    System(
        name="agenda",
        variant="",
        title="Agenda",
        setup="Node, MongoDB, up to 100 jobs locked and run at once in each process, told of new jobs by a change "
        "stream and looking every 100 ms, finished jobs are kept; counts with a small write instead of mapped memory",
        bulk="none; a batch of 500 saved side by side",
        lacks="results: the job and when it ended are in MongoDB, what it returned is not kept",
        count=1_500,
        durable_results=True,
        workers=_agenda,
        sender=("node", str(AGENDA / "sender.mjs")),
        store=agenda_jobs,
        programs=(AGENDA / "node_modules" / "agenda",),
        headline=False,
    ),
)
LEFT_OUT: dict[str, str] = {
    "taskiq, results in MongoDB": "taskiq-mongodb 0.1.0 cannot be imported with taskiq 0.13.0 (the latest of both); "
    "results in Redis are measured instead.",
}
"""Name of a system → why it is not measured."""


def chosen(names: tuple[str, ...]) -> list[System]:
    """The systems that these names mean: a key, or a name for all variants; no names: all.

    Raises:
        ValueError: a name means nothing.
    """
    for name in names:
        if not any(name in (system.key, system.name) for system in SYSTEMS):
            raise ValueError(f"there is no system {name!r}; there are: {', '.join(each.key for each in SYSTEMS)}")
    return [system for system in SYSTEMS if not names or {system.key, system.name} & set(names)]
