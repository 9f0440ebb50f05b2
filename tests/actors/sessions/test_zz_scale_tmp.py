import os, resource, time, asyncio, sys
from pathlib import Path
from datetime import timedelta, datetime, UTC
from tests.actors.sessions.conftest import *
from tests.actors.sessions.test_archive_job import run, root, folder
from tests.actors.sessions.archived import *


async def test_scale(context, root, folder):
    line = b'{"type":"user","uuid":"%d","message":{"content":"some words that repeat"}}\n'
    for n in range(20000):
        day = MONDAY + timedelta(days=n % 60)
        p = root / f"p{n%50}" / f"{n}.jsonl"; p.parent.mkdir(exist_ok=True)
        p.write_bytes(b"".join(line % (n*7+k) for k in range(20)))
        t = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()); os.utime(p, (t, t))
    big = root / "big"; 
    with big.open("wb") as f:
        for n in range(300): f.write(os.urandom(500_000) + bytes(500_000))
    t = int(datetime(2026,2,2,12, tzinfo=UTC).timestamp()); os.utime(big, (t, t))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    s = time.time(); c = await run(context, MONDAY + timedelta(days=75), root, preset=6)
    print("first", time.time()-s, c, "rss MB", base//1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)
    s = time.time(); c = await run(context, MONDAY + timedelta(days=75), root); print("again", time.time()-s)
    print(archives(folder), sum(p.stat().st_size for p in folder.rglob("*.xz"))>>20)
