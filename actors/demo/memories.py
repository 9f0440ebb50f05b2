"""The family ``memories``: memories in every tier and state, and all that is around them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256

from actors.demo.part import DemoFile, Document, Part
from actors.demo.tenants import CROSSWORD, HERBARIUM, LANTERN, TENANTS, Tenant
from actors.memories.capture import content_hash

RECALLS = 6
"""Of a memory that comes up again."""
IN_CATALOGUE = 10
"""Members of the cluster whose summary is as it should be."""
CATALOGUE = "demo-herbarium-catalogue"
RISING = {"becomes-hot": "cold", "becomes-warm": "cold", "hot-again": "warm"}
"""Memories that were recalled of late, and where they are."""
FOLDERS = {HERBARIUM: "demo-herbarium/notes", CROSSWORD: "demo-crossword/drafts"}
"""Of the connectors, below the folder of all connectors."""


def parts(now: datetime) -> list[Part]:
    memories = [memory for tenant in TENANTS for memory in _memories(tenant, now)]
    catalogue = [each for each in memories if each["clusterId"] == CATALOGUE]
    return [
        Part("memories", memories, "in every tier; some fade, some are past their retention, one is on hold"),
        Part("clusters", _clusters(catalogue, now), "3 without a summary, 1 unchanged, 1 small"),
        Part("recall_events", list(_recall_events(now)), "3 memories of each tenant were recalled"),
        Part("capture_queue", list(_candidates(now)), "new ones, one that is known, two that are none"),
        Part("integrations", list(_integrations(now)), "a folder that is due, one that is not, an API (disabled)"),
        Part("audit_log", list(_audit_rows(now)), "some past their retention, some held for a SIEM"),
        Part("siem_endpoints", _siem_endpoints(now), "one disabled, one that has seen everything: nothing listens"),
        Part("auth_sessions", list(_auth_sessions(now)), "half of them expired"),
        Part("insights", list(_insights(now)), "yesterday's and last week's"),
        Part("webhook_endpoints", [_webhook_endpoint(now)], "disabled: nothing listens"),
    ]


def files(now: datetime) -> list[DemoFile]:
    """What the folder connectors find."""
    return [
        DemoFile(
            f"connectors/{folder}/{number}.md",
            f"# {tenant.things[number]}\n\n{tenant.text(200 + number)}\n".encode(),
            now - timedelta(days=1),
        )
        for tenant, folder in FOLDERS.items()
        for number in range(3)
    ]


# ---- memories --------------------------------------------------------------------------------------------------------


def _memories(tenant: Tenant, now: datetime) -> Iterable[Document]:
    def days_ago(days: float) -> datetime:
        return now - timedelta(days=days)

    def memory(name: str, text: str, **fields: object) -> Document:
        return {
            "_id": f"{tenant.id}-{name}",
            "tenantId": tenant.id,
            "clusterId": None,
            "text": text,
            "contentHash": content_hash(text),
            "textUpdatedAt": days_ago(3),
            "tier": "hot",
            "decayScore": 1.0,
            "score": 0.2,
            "recallCount": 0,
            "lastRecalledAt": None,
            "lastEvaluatedAt": None,
            "createdAt": days_ago(3),
            "status": "active",
            "statusChangedAt": days_ago(3),
            "retentionExpiresAt": None,
            "holdUntil": None,
            "embeddingUpdatedAt": None,
        } | fields

    for number, text in enumerate(tenant.topic):
        created = days_ago(1 + number / 2)
        yield memory(f"topic-{number:02}", text, clusterId=f"{tenant.id}-topic", createdAt=created)
    for number in range(tenant.idle):
        in_catalogue = tenant is HERBARIUM and number < IN_CATALOGUE
        yield memory(
            f"idle-{number:02}",
            tenant.text(number),
            clusterId=CATALOGUE if in_catalogue else f"{tenant.id}-small" if number < 4 else None,
            tier=("hot", "warm", "cold")[number % 3],
            createdAt=days_ago(200),
            lastRecalledAt=days_ago(32 + 5 * number),
            recallCount=number % 7,
        )
    lives: dict[str, Document] = {
        "forgotten": {"tier": "cold", "createdAt": days_ago(400), "decayScore": 0.002},
        "without-tier": {"tier": None, "createdAt": days_ago(20)},
        "expired": {"retentionExpiresAt": days_ago(1)},
        "on-hold": {"retentionExpiresAt": days_ago(1), "holdUntil": days_ago(-365)},
        "archived": {"status": "archived", "retentionExpiresAt": days_ago(40), "statusChangedAt": days_ago(31)},
        "deleted": {"status": "soft_deleted", "retentionExpiresAt": days_ago(70), "statusChangedAt": days_ago(31)},
        "pending": {
            "status": "hard_delete_pending",
            "retentionExpiresAt": days_ago(90),
            "statusChangedAt": days_ago(8),
        },
        **{
            name: {"tier": tier, "createdAt": days_ago(120), "lastRecalledAt": now, "recallCount": RECALLS}
            for name, tier in RISING.items()
        },
    }
    for number, (name, fields) in enumerate(lives.items(), start=100):
        yield memory(name, tenant.text(number), **fields)


def _recall_events(now: datetime) -> Iterable[Document]:
    for tenant in TENANTS:
        for name in RISING:
            recalls = 1 if name == "becomes-warm" else RECALLS
            for number in range(recalls):
                # The last ones are as late as they may be: those before the cursor of an earlier run are not looked at.
                ago = timedelta(seconds=31 + number) if number < 4 else timedelta(hours=7 * number)
                yield {
                    "_id": f"{tenant.id}-{name}-{number}",
                    "tenantId": tenant.id,
                    "memoryId": f"{tenant.id}-{name}",
                    "at": now - ago,
                }


def _clusters(catalogue: list[Document], now: datetime) -> list[Document]:
    def cluster(name: str, tenant: Tenant, members: int, **fields: object) -> Document:
        without = {"summary": None, "summarisedCount": 0, "summaryAt": None, "summaryHash": None}
        return {"_id": name, "tenantId": tenant.id, "memberCount": members} | without | fields

    summary = {
        "summary": "Sheets that are mounted and labelled wait to be photographed.",
        "summarisedCount": 6,
        "summaryAt": now - timedelta(days=40),
        "summaryHash": _members_hash(catalogue),
    }
    return [
        *(cluster(f"{tenant.id}-topic", tenant, len(tenant.topic)) for tenant in TENANTS),
        cluster(f"{LANTERN.id}-small", LANTERN, 4),
        cluster(CATALOGUE, HERBARIUM, len(catalogue), **summary),
    ]


def _members_hash(members: list[Document]) -> str:
    """As ``memories.summarize`` takes it."""
    parts = [sha256(each[name].encode()).digest() for each in members for name in ("_id", "text")]
    return sha256(b"".join(parts)).hexdigest()


# ---- around them -----------------------------------------------------------------------------------------------------


def _candidates(now: datetime) -> Iterable[Document]:
    for tenant in TENANTS:
        for number in range(4):
            candidate = {"text": tenant.text(300 + number), "metadata": {"said": "in a chat"}}
            yield _candidate(f"{tenant.id}-candidate-{number}", tenant.id, candidate, now - timedelta(minutes=number))
    known = {"text": HERBARIUM.topic[0].replace(" ", "  ")}
    yield _candidate("demo-candidate-known", HERBARIUM.id, known, now)
    yield _candidate("demo-candidate-without-text", LANTERN.id, {"note": "There is none."}, now)
    yield _candidate("demo-candidate-of-nobody", None, {"text": "Whose is this?"}, now)


def _candidate(name: str, tenant: str | None, candidate: object, at: datetime) -> Document:
    return {
        "_id": name,
        "tenantId": tenant,
        "source": {"kind": "chat"},
        "candidate": candidate,
        "status": "pending",
        "reason": None,
        "createdAt": at,
    }


def _integrations(now: datetime) -> Iterable[Document]:
    for tenant, folder in FOLDERS.items():
        yield {
            "_id": f"{tenant.id}-folder",
            "tenantId": tenant.id,
            "kind": "folder",
            "enabled": True,
            "config": {"path": folder, "settle": "0s"},
            "syncInterval": "15m",
            "nextScheduledSync": now + timedelta(minutes=-10 if tenant is HERBARIUM else 10),
            "lastSyncAt": None,
            "cursor": None,
        }
    yield {
        "_id": f"{LANTERN.id}-api",
        "tenantId": LANTERN.id,
        "kind": "http_json",
        "enabled": False,
        "config": {"url": "http://127.0.0.1:8099/notes"},
        "syncInterval": "1h",
        "nextScheduledSync": now,
        "lastSyncAt": None,
        "cursor": None,
    }


def _audit_rows(now: datetime) -> Iterable[Document]:
    actions = ("memory.read", "memory.exported", "key.created", "member.invited")
    for tenant in TENANTS:
        for number, days in enumerate((400, 390, 380, 370, 300, 90, 30, 7, 1, 0.1)):
            yield {
                "_id": f"{tenant.id}-audit-{number}",
                "tenantId": tenant.id,
                "at": now - timedelta(days=days),
                "actor": ("ada", "ben", "eva")[number % 3],
                "action": actions[number % len(actions)],
                "target": f"{tenant.id}-topic-{number:02}",
                "detail": {"from": "203.0.113.7"},
            }


def _siem_endpoints(now: datetime) -> list[Document]:
    endpoint = {"url": "https://127.0.0.1:8098/collect", "format": "jsonl", "secretRef": None}
    behind = {"at": now - timedelta(days=390), "id": f"{LANTERN.id}-audit-1"}
    return [
        {"_id": LANTERN.id, **endpoint, "enabled": False, "cursor": behind},
        {"_id": "demo-almanac", **endpoint, "enabled": True, "cursor": None},
    ]


def _auth_sessions(now: datetime) -> Iterable[Document]:
    for number in range(12):
        expires = now + timedelta(days=number - 5.5)
        yield {"_id": f"demo-session-{number:02}", "userId": f"demo-user-{number % 4}", "refreshExpiresAt": expires}


def _insights(now: datetime) -> Iterable[Document]:
    for tenant in TENANTS:
        for days in (1, 7):
            at = now - timedelta(days=days)
            day = at.date().isoformat()
            yield {
                "_id": f"{tenant.id}:{day}",
                "tenantId": tenant.id,
                "day": day,
                "at": at,
                "memories": tenant.idle + 4,
                "statuses": {"active": tenant.idle + 4},
                "tiers": {"hot": tenant.idle + 4},
                "growth": {"day": None, "week": None, "month": None},
                "mostRecalled": [],
                "topics": [],
                "sampled": 0,
            }


def _webhook_endpoint(now: datetime) -> Document:
    return {
        "_id": "demo-webhook",
        "tenantId": LANTERN.id,
        "url": "https://127.0.0.1:8097/hook",
        "secretRef": "webhook-demo",
        "disabledAt": now - timedelta(days=2),
        "disabledReason": "it answered 410",
    }
