"""Keys of the admin API: made once, kept as hashes, compared in constant time.

A line is ``name:role:sha256``. The key itself is 256 random bits, so that its hash can neither be guessed nor reversed.
"""

import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog

from schemas.access import Caller, KeyRole
from service.errors import ConfigError, InvalidInput
from service.log_events import LogEvent

log = structlog.get_logger()

KEY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BEGINNING = "vgr_"
"""So that scanners for leaked secrets, and people, know one."""
_KEY = re.compile(rf"{_BEGINNING}[A-Za-z0-9_-]{{43}}")
_HASH = re.compile(r"[0-9a-f]{64}")
_FORM = "write name:role:sha256, a line that `verger keys create` prints"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What is kept of one key."""

    caller: Caller
    hash: str

    def __str__(self) -> str:
        return f"{self.caller.name}:{self.caller.role.value}:{self.hash}"


def create_key(name: str, role: KeyRole) -> tuple[str, AccessKey]:
    """A new key, which is kept nowhere, and what is kept of it. Raises InvalidInput for a name that is none."""
    if not KEY_NAME.fullmatch(name):
        raise InvalidInput("name", name, f"is not {KEY_NAME.pattern}", "use letters, digits, _ . and -")
    key = _BEGINNING + secrets.token_urlsafe(32)
    return key, AccessKey(Caller(name=name, role=role), _hash(key))


def parse_key(line: str) -> AccessKey:
    """Read a line. Raises ConfigError, which does not show it: somebody may have put a key there by mistake."""
    name, _, rest = line.strip().partition(":")
    role, _, hashed = rest.partition(":")
    if not KEY_NAME.fullmatch(name):
        raise ConfigError(f"the name is not {KEY_NAME.pattern}; {_FORM}")
    if role not in list(KeyRole):
        raise ConfigError(f"the role is none of {', '.join(KeyRole)}; {_FORM}")
    if not _HASH.fullmatch(hashed):
        raise ConfigError(f"what follows the role is no SHA-256 in lower-case hexadecimal digits; {_FORM}")
    return AccessKey(Caller(name=name, role=KeyRole(role)), hashed)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()


class KeyRing:
    """The keys in force: those of the setting, and those of a file that may change at any time."""

    def __init__(self, lines: Iterable[str], path: Path | None) -> None:
        """Raises ConfigError when a line is wrong or the file cannot be read."""
        self._fixed, wrong = _parse(enumerate(lines, 1))
        if wrong:
            raise ConfigError(f"VERGER_API_KEYS, key {wrong[0]}")
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._filed: list[AccessKey] = []
        if path is not None:
            self._seen = _look(path)
            self._filed, wrong = _read(path)
            if wrong:
                raise ConfigError(f"VERGER_API_KEYS_FILE ({path}), line {wrong[0]}")

    @property
    def required(self) -> bool:
        """Whether callers need a key; decided by the settings: a file that is emptied lets nobody in."""
        return bool(self._fixed) or self._path is not None

    @property
    def keys(self) -> list[AccessKey]:
        """Those in force now; a change of the file is seen at once."""
        path = self._path
        if path is not None and (seen := _look(path)) != self._seen:
            self._seen = seen
            self._reload(path)
        return self._fixed + self._filed

    def find(self, key: str) -> Caller | None:
        """Whose key it is. Takes as long for any key that is not in force."""
        if not _KEY.fullmatch(key):
            return None
        hashed, found = _hash(key), None
        for each in self.keys:
            if hmac.compare_digest(each.hash, hashed):
                found = each.caller
        return found

    def _reload(self, path: Path) -> None:
        """What is wrong is left out: to keep an old key for it could keep one that was revoked."""
        try:
            self._filed, wrong = _read(path)
        except ConfigError as error:
            self._filed, wrong = [], []
            log.error(LogEvent.KEYS_REFUSED, file=str(path), error=str(error))
        for problem in wrong:
            log.error(LogEvent.KEYS_REFUSED, file=str(path), error=f"line {problem}")
        log.info(LogEvent.KEYS_LOADED, file=str(path), names=[each.caller.name for each in self._filed])


def _look(path: Path) -> tuple[int, ...] | None:
    """What tells whether the file is another one: a mounted secret is replaced as a whole."""
    try:
        found = os.stat(path)  # noqa: PTH116 - one call for each request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _read(path: Path) -> tuple[list[AccessKey], list[str]]:
    """The keys of the file, and what is wrong with the other lines. Empty lines and # are comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"VERGER_API_KEYS_FILE ({path}) cannot be read: {reason}") from None
    numbered = enumerate((line.strip() for line in lines), 1)
    return _parse((number, line) for number, line in numbered if line and not line.startswith("#"))


def _parse(lines: Iterable[tuple[int, str]]) -> tuple[list[AccessKey], list[str]]:
    """The keys, and what is wrong with the other lines, by number."""
    keys, wrong = [], []
    for number, line in lines:
        try:
            keys.append(parse_key(line))
        except ConfigError as error:
            wrong.append(f"{number}: {error}")
    return keys, wrong
