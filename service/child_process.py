"""Child processes that never outlive their parent, and the ports they listen on."""

import asyncio
import os
import random
import signal
import socket
import sys
from contextlib import suppress

PORTS = range(20000, 32000)

# Run between fork and exec, in a process of its own: a `preexec_fn` may deadlock in a program that has threads.
_TIE = """
import ctypes, os, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(sys.argv[2]))
    if os.getppid() != int(sys.argv[1]):  # the parent ended before
        os.kill(os.getpid(), int(sys.argv[2]))
os.execvp(sys.argv[3], sys.argv[3:])
"""


def ending_with_parent(*command: str, by: signal.Signals = signal.SIGKILL) -> list[str]:
    """``command``, wrapped so that the kernel ends it when the thread that started it ends, even by ``kill -9``.

    ``by``: the signal it gets then; SIGTERM if it has work to give back.
    """
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), str(int(by)), *command]


def free_port(preferred: int = 0) -> int:
    """A loopback port that nothing listens on at this moment; somebody may still be faster.

    Never one that the kernel gives to outgoing connections: a client that keeps trying a dead server there will one day
    be connected to itself, and the server cannot come back.
    """
    for port in (preferred, *random.choices(PORTS, k=100)):
        with socket.socket() as probe, suppress(OSError):
            # As servers do: what is left of former connections does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port:
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError("this machine has no free loopback port")


async def listening(port: int) -> None:
    """Return once something listens on the loopback port."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return
