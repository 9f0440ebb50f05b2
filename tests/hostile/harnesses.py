"""What reads the bytes of strangers, each as one function that takes bytes: none may crash, hang or grow.

``tests/hostile/fuzz.py`` looks for bytes that reach new code; the tests beside it build what they know to be odd.
"""

import asyncio
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import bson
import pamqp.frame
from pamqp import commands

from actors.maintenance.tar import END, PieceStream, entries, header, inside, padding
from actors.memories.signature import BadSecret, read_secrets
from actors.sessions.adapters.claude_code import ClaudeCode
from actors.sessions.adapters.port import FoundFile, Limits, Position
from actors.sessions.archive.reading import ArchiveDamaged, Reading
from actors.sessions.backup.manifest import MANIFEST, SUMS, BackupDamaged, Manifest, Targets, read_backup
from schemas.duration import parse_duration
from service.broker.port import Delivery
from service.broker.rabbitmq.tap import Tap
from service.crontab import CrontabEntry, CrontabProblem, read_crontab
from service.envelope import dead_letter, invalid_task, read
from service.errors import InvalidMessage, InvalidSchedule, PayloadRefused
from service.payload import check_storable
from service.registry import Registry
from service.schedule_entry import Rules, to_schedule
from service.schedule_file import read_file, read_set
from service.store.mongo.documents import task_document
from service.triggers import parse_schedule

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LIMIT = 8 * 1024 * 1024

# ---- messages --------------------------------------------------------------------------------------------------------

CHANNEL = 1


def delivered(
    body: bytes, headers: Mapping[str, Any] | None = None, *, key: str = "report.build", message_id: str | None = None
) -> Delivery:
    return Delivery(body, headers or {}, key, message_id, "application/json", "@intake", 0.0, None)


def judged(delivery: Delivery) -> str:
    """What becomes of it; all of it can be kept, and sent on."""
    try:
        incoming = read(delivery, None, NOW, LIMIT)
    except (InvalidMessage, PayloadRefused) as error:
        dead = invalid_task(delivery, error, NOW)
        bson.encode(task_document(dead))
        assert len(str(dead.last_error)) < 10_000
        dead_letter(dead)
        return "dead"
    if incoming.record is None:
        return "stored"
    bson.encode(task_document(incoming.record))
    assert bson.decode(bson.encode(task_document(incoming.record)))["taskBody"] == incoming.record.task_body
    return "task"


def content(properties: bytes, flags: int, body: bytes) -> bytes:
    """Header and body frames of a message."""
    header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
    frames = ((2, header), (3, body))
    return b"".join(struct.pack(">BHI", kind, CHANNEL, len(raw)) + raw + b"\xce" for kind, raw in frames)


async def arriving(*contents: bytes) -> list[Any]:
    """What a consumer gets of these messages."""
    stream = asyncio.StreamReader()
    tap = Tap(stream)
    arrived: list[Any] = []
    tap.listen(CHANNEL, arrived.append)
    method = commands.Basic.Deliver("consumer", 1, False, "verger.tasks", "report.build")
    for each in contents:
        stream.feed_data(pamqp.frame.marshal(method, CHANNEL) + each)
    stream.feed_eof()
    with suppress(asyncio.IncompleteReadError):
        await tap.readexactly(1_000_000)
    return arrived


def body(data: bytes) -> None:
    """A message's body."""
    judged(delivered(data))


def properties(data: bytes) -> None:
    """A message's properties and headers, as they come over the wire."""
    flags = int.from_bytes(data[:2], "big")
    arrived = asyncio.run(arriving(content(data[2:], flags, b"{}"), content(b"", 0, b"[]")))
    assert [each.body for each in arrived] == [b"{}", b"[]"]
    judged(delivered(b"{}", arrived[0].headers))


# ---- schedules -------------------------------------------------------------------------------------------------------


def schedule(data: bytes) -> None:
    """A cron expression, ``@every`` or ``@at``, in a zone that changes its clocks."""
    with suppress(InvalidSchedule):
        parse_schedule(data.decode(errors="replace"), "Europe/Berlin").next_after(NOW)


def schedule_file(data: bytes) -> None:
    """A file of schedules, as the command line and the API take it."""
    for read_all in (read_file, read_set):
        with suppress(InvalidSchedule):
            for entry in read_all(data).schedules:
                to_schedule(entry, Rules(Registry(), allow_unknown=True), NOW)


def crontab(data: bytes) -> None:
    """A crontab that is carried over."""
    text = data.decode(errors="replace")
    for system in (False, True):
        for each in read_crontab(text, timezone="UTC", system=system):
            assert isinstance(each, CrontabEntry | CrontabProblem)


def duration(data: bytes) -> None:
    """A length of time."""
    with suppress(ValueError):
        assert isinstance(parse_duration(data.decode(errors="replace")), timedelta)


def secret(data: bytes) -> None:
    """The secrets of a webhook."""
    with suppress(BadSecret):
        read_secrets(data.decode(errors="replace"))


# ---- session files, archives, backups --------------------------------------------------------------------------------

LIMITS = Limits(
    lines=100, chunk_bytes=4 * 1024 * 1024, line_bytes=2 * 1024 * 1024, now=NOW, latest=NOW + timedelta(days=1)
)
FOUND = FoundFile(Path("/logs"), ("-home-ada", "one.jsonl"), 0, 0, 0)
GOOD = {
    "type": "user",
    "uuid": "u1",
    "sessionId": "s1",
    "timestamp": "2026-01-01T00:00:00Z",
    "cwd": "/home/ada",
    "message": {"role": "user", "content": "hello"},
}


def parsed(data: bytes) -> tuple[int, int]:
    """How many messages and how many malformed lines; each message can be kept, no reason is long."""
    portion = ClaudeCode().parse(io.BytesIO(data), FOUND, Position(), LIMITS)
    for message in portion.messages:
        check_storable([message.id, message.session_id, message.role, message.cwd, message.content], "message")
    assert all(len(each.reason) < 500 for each in portion.malformed)
    assert 0 <= portion.position.offset <= len(data)
    return len(portion.messages), len(portion.malformed)


def session(data: bytes) -> None:
    """A file of sessions."""
    parsed(data)


def tar(data: bytes) -> None:
    """A tar that somebody else made."""
    stream = io.BufferedReader(PieceStream(iter([data + padding(len(data)) + END])))
    with suppress(tarfile.TarError):
        for entry, file in entries(stream):
            parts = inside(entry)
            if parts is None:
                break  # as everybody does who reads one
            assert ".." not in parts and parts[0] != "/"
            while file is not None and file.read(4096):
                pass


def archive(data: bytes) -> None:
    """An archive below the checksums of xz: whoever changes a tar can compress it again."""
    with TemporaryDirectory() as folder, suppress(ArchiveDamaged):
        path = Path(folder, "archive")
        path.write_bytes(lzma.compress(data, preset=0))
        list(Reading(path).files())


def manifest(data: bytes) -> None:
    """A backup's manifest."""
    with TemporaryDirectory() as folder, suppress(BackupDamaged):
        path = Path(folder, BACKUP)
        path.mkdir()
        (path / MANIFEST).write_bytes(data)
        (path / SUMS).write_text(f"{sha256(data).hexdigest()}  {MANIFEST}\n")
        read_backup(path)


BACKUP = "20260301T000000Z"
EMPTY = Manifest(id=BACKUP, created_at=NOW, verified_at=NOW, targets=Targets(databases=("a",)))
FILE = header("2026-02-02/x", size=3, mode=0o600, mtime_ns=1) + b"abc" + padding(3)


class Harness(NamedTuple):
    feed: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    """Where to begin."""


HARNESSES = {
    each.feed.__name__: each
    for each in (
        Harness(body, (b'{"id":"a","taskBody":{"a":1},"delay":"5m","maxAttempts":3}', b'{"taskBody":{"a":"$x"}}')),
        Harness(properties, (b"\x20\x00\0\0\0\x05\x01aI\0\0\0\1", b"\x80\x00\x10application/json")),
        Harness(schedule, (b"*/5 0-6 1,15 * MON#2", b"0 0 L * *", b"@every PT5M", b"@at 2026-03-29T02:30:00")),
        Harness(
            schedule_file,
            (
                b'{"schedules":[{"id":"a","task_type":"a.b","schedule":"@daily","jitter":"5m","args":{}}]}',
                b'{"schedules":[{"id":"a","task_type":"a.b","schedule":"0 * * * *","misfire":"all"}]}',
            ),
        ),
        Harness(crontab, (b"CRON_TZ=Europe/Berlin\n0 4 * * 1 root run % in\n@daily run\n", b"\"A\"='b'\n")),
        Harness(duration, (b"1h30m", b"P1DT2H", b"90")),
        Harness(secret, (b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b"a b")),
        Harness(session, (json.dumps(GOOD).encode() + b"\n", b"\n\n{}\n")),
        Harness(tar, (FILE,)),
        Harness(archive, (FILE + END,)),
        Harness(manifest, (EMPTY.model_dump_json(by_alias=True).encode(),)),
    )
}
