"""The real servers of the tests: private ones on free ports, which a test may kill, freeze and start again.

Started once a run, if a test needs them. They end with the run, however that ends: if pytest is killed, the kernel
kills them. They belong to no event loop, so that a test in one loop may hand them to the next.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import aio_pika

from service.child_process import ending_with_parent, free_port, listening
from service.mongod import find_mongod, mongod_command
from service.store.mongo.replica import ensure_replica_set

READY_SECONDS = 90.0
IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30


def server_data() -> "TemporaryDirectory[str]":
    """A folder for servers, in memory where there is room: a slow disk stalls them for seconds, which no test asks for.

    What tests do to servers leaves it as it is, ``kill -9`` too.
    """
    roomy = os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= ROOM_BYTES
    return TemporaryDirectory(prefix="verger-tests-", dir=IN_MEMORY if roomy else None, ignore_cleanup_errors=True)


class Server(ABC):
    """A server process that always comes back on the same port, with the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._serves = False

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    async def _settled(self) -> None:
        """Return once it serves."""

    def _environment(self) -> Mapping[str, str] | None:
        return None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} was not started")
        return self._process

    def spawn(self) -> None:
        """Start the process; ``ready`` waits for it. From the main thread, with which it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ending_with_parent(*self._command()),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._frozen = self._serves = False

    async def ready(self) -> None:
        """Return once it serves; an error if it has ended or takes too long."""
        if self._serves:
            return
        if self._process is None:
            self.spawn()
        serving = asyncio.create_task(self._serving())
        deadline = time.monotonic() + READY_SECONDS
        while not serving.done() and self.alive and time.monotonic() < deadline:
            await asyncio.wait((serving,), timeout=0.05)
        if serving.done():
            await serving
            self._serves = True
            return
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        state = "does not serve" if self.alive else f"ended with exit code {self._running.returncode}"
        output = (self.folder / "output").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{type(self).__name__} {state}; its folder is {self.folder}\n{output}")

    async def _serving(self) -> None:
        await listening(self.port)
        await self._settled()

    def kill(self) -> None:
        """``kill -9``. The port refuses connections from now on."""
        self._running.kill()
        self._running.wait()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        # Each thread stops when it is next looked at, which takes a while on a busy machine.
        while not all(_is_stopped(thread) for thread in Path(f"/proc/{self.pid}/task").iterdir()):
            time.sleep(0.001)
        self._frozen = True

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    async def restart(self) -> None:
        """Start it again on the same port and data, killed before or now."""
        if self.alive:
            self.kill()
        self.spawn()
        await self.ready()

    async def heal(self) -> None:
        """Undo what a test did to it and forgot."""
        if not self.alive:
            await self.restart()
        elif self._frozen:
            self.thaw()

    def stop(self) -> None:
        """The end: its data is thrown away, so there is nothing to shut down in order."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class MongoServer(Server):
    """A one-node replica set, with fail points."""

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet=verger&directConnection=true"

    def _command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        configured = os.environ.get("VERGER_MONGOD")
        binary = find_mongod(Path(configured) if configured else None)
        log = self.folder / "mongod.log"
        return mongod_command(binary, data, log, self.port, "--setParameter", "enableTestCommands=1")

    async def _settled(self) -> None:
        host = f"127.0.0.1:{self.port}"
        await ensure_replica_set(f"mongodb://{host}/", host, pid=self.pid, timeout_seconds=READY_SECONDS)


class RabbitServer(Server):
    """A node of its own: own cookie, own name service, own folders; it does not touch the broker of the machine."""

    NODE = "verger@localhost"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._epmd_port = free_port()
        self._distribution_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def spawn(self) -> None:
        if self._epmd is None:
            self._write_configuration()
            self._start_name_service()
        super().spawn()

    def _write_configuration(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "env").write_text("")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 50MB\nlog.console = false\n"
        )

    def _start_name_service(self) -> None:
        """Erlang would start one by itself, as a daemon that outlives us."""
        self._epmd = subprocess.Popen(
            ending_with_parent(_program("epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 10
        while self._epmd.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._epmd_port)):
                return
            time.sleep(0.01)
        raise RuntimeError(f"epmd does not listen on port {self._epmd_port}")

    def stop(self) -> None:
        super().stop()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    def _command(self) -> list[str]:
        return [str(_scripts() / "rabbitmq-server")]

    def _environment(self) -> Mapping[str, str]:
        folder = self.folder
        return {
            "PATH": _programs(),
            "LANG": "C.UTF-8",
            "HOME": str(folder),  # where the cookie is made
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.NODE,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "detached": "1",  # the script becomes the server, instead of a shell that minds it: one process to kill
        }

    async def _settled(self) -> None:
        await (await aio_pika.connect(self.url)).close()

    async def ctl(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` says (about a second); an error if it fails."""
        return await self._run(str(_scripts() / "rabbitmqctl"), "--quiet", *arguments)

    async def delete(self, prefix: str) -> None:
        """Delete all queues and exchanges whose names begin with ``prefix.``; asks the node itself: a few ms."""
        deadline = time.monotonic() + READY_SECONDS
        while not await self._dead_lettering_settled() and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        mine = f'string:prefix(element(4, Name), <<"{prefix}.">>) =/= nomatch'
        queues = f'[{{Q, Name}} || Q <- rabbit_amqqueue:list(<<"/">>), Name <- [amqqueue:get_name(Q)], {mine}]'
        exchanges = f'[Name || X <- rabbit_exchange:list(<<"/">>), Name <- [element(2, X)], {mine}]'
        await self._eval_in_the_end(
            f'[rabbit_amqqueue:delete(Q, false, false, <<"tests">>) || {{Q, _}} <- {queues}], '
            f'[rabbit_exchange:delete(Name, false, <<"tests">>) || Name <- {exchanges}], ok.'
        )

    async def _dead_lettering_settled(self) -> bool:
        """Whether each queue that dead-letters at least once has its worker, and that is idle.

        Until then no such queue may be deleted: two workers that lose their queue while they start end their supervisor
        for good, and with it every such queue of the node (3.10; with more of them also later: rabbitmq-server#16652).
        """
        said = await self._eval_in_the_end(
            'Strategies = [rabbit_misc:table_lookup(amqqueue:get_arguments(Q), <<"x-dead-letter-strategy">>) '
            '|| Q <- rabbit_amqqueue:list(<<"/">>)], '
            "Workers = supervisor:which_children(rabbit_fifo_dlx_sup), "
            "[sys:get_state(Worker, 10000) || {_, Worker, _, _} <- Workers], "
            "length([S || S <- Strategies, S =/= undefined]) =:= length(Workers)."
        )
        return "true" in said

    def kill(self) -> None:
        """``kill -9``, a moment after the node has written its list of quorum queues.

        It does so twice a second by itself. A queue declared in the last half second would be lost for good: it can be
        declared again, but nothing that is asked of it is ever answered (3.10).
        """
        if self.alive and self._serves and not self._frozen:
            with suppress(subprocess.SubprocessError):
                subprocess.run(
                    self._erl_call(),
                    check=False,
                    input=b"[dets:sync(T) || T <- dets:all()], ok.\n",
                    env=self._environment(),
                    stdout=subprocess.DEVNULL,
                    timeout=5,
                )
        super().kill()

    async def names(self, prefix: str) -> list[str]:
        """The queues whose names begin with ``prefix``."""
        rows = json.loads(await self.ctl("list_queues", "name", "--formatter", "json"))
        return sorted(row["name"] for row in rows if row["name"].startswith(prefix))

    async def _eval(self, erlang: str) -> str:
        said = await self._run(*self._erl_call(), given=erlang + "\n")
        if not said.startswith("{ok"):
            raise RuntimeError(f"the node answered {said} to {erlang}")
        return said

    async def _eval_in_the_end(self, erlang: str) -> str:
        """Again and again while the node is too busy to answer, or its processes come and go."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                return await self._eval(erlang)
            except RuntimeError:
                if not self.alive or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)

    def _erl_call(self) -> list[str]:
        """Evaluates what it reads, on the node; ``rabbitmqctl eval`` would boot a virtual machine first."""
        cookie = (self.folder / ".erlang.cookie").read_text()
        return [_program("erl_call"), "-sname", self.NODE, "-c", cookie, "-e"]

    async def _run(self, *command: str, given: str = "") -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said = (await process.communicate(given.encode()))[0].decode(errors="replace")
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {said}")
        return said


def _is_stopped(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _scripts() -> Path:
    """The folder of RabbitMQ's own scripts.

    Distributions put a wrapper on the PATH that insists on root and switches to the user ``rabbitmq``; the script
    behind it runs as anybody.
    """
    for scripts in sorted((_root() / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"), reverse=True):
        return scripts
    return Path(_program("rabbitmq-server")).resolve().parent


def _root() -> Path:
    """Below which RabbitMQ and its Erlang are installed: this machine, or the folder that `scripts/setup` made."""
    return Path(os.environ.get("TESTS_RABBITMQ", "/")).absolute()


def _programs() -> str:
    """The PATH of whatever belongs to RabbitMQ."""
    return os.pathsep.join((str(_root() / "usr/bin"), os.environ["PATH"]))


def _program(name: str) -> str:
    if found := shutil.which(name, path=_programs()):
        return found
    raise RuntimeError(f"the tests need {name}; run `make setup`, or `sudo apt-get install rabbitmq-server`")
