"""Secrets by reference: a document names one, a file holds it; none is in the database, in a task, or in a log."""

import io
import os
import re
from pathlib import Path

from actors.maintenance.blocking import in_thread
from service.errors import ConfigError, VergerError
from service.settings import Settings

MOST_BYTES = 64 * 1024
_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,200}")
"""What Kubernetes allows as a key of a Secret, without hidden files: ``..data`` is how it swaps them."""


class SecretMissing(VergerError):
    """A reference leads to no secret. The message names the reference, never what was found."""


async def read_secret(settings: Settings, reference: str) -> str:
    """What a ``secretRef`` names: the file of that name in ``VERGER_SECRETS_DIR``, without a newline at its end.

    It is read each time, so a secret can be replaced at any moment.

    Raises:
        ConfigError: ``VERGER_SECRETS_DIR`` is not set. SecretMissing: there is no such secret, or it is none.
    """
    if settings.secrets_dir is None:
        raise ConfigError(
            f"the secret {reference[:200]!r} is wanted; set VERGER_SECRETS_DIR to the folder that holds it"
        )
    if not _NAME.fullmatch(reference):
        raise SecretMissing(f"{reference[:200]!r} is not the name of a secret: letters, digits, '-', '_' and '.'")
    return await in_thread(_read, settings.secrets_dir / reference, reference)


def _read(path: Path, reference: str) -> str:
    try:
        # Symlinks are followed, since a mounted Secret is made of them.
        with io.FileIO(str(path), opener=_open) as file:
            found = file.read(MOST_BYTES + 1) or b""
    except OSError as error:
        raise SecretMissing(f"the secret {reference!r} cannot be read: {error.strerror}") from None
    if not found.strip() or len(found) > MOST_BYTES:
        raise SecretMissing(f"the secret {reference!r} is empty, or longer than {MOST_BYTES} bytes")
    try:
        return found.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretMissing(f"the secret {reference!r} is not UTF-8") from None


def _open(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK)
