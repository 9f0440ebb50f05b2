"""The maintenance of a multi-tenant memory service."""

from actors.maintenance.database import memory
from actors.maintenance.embedder import embedder
from actors.maintenance.http import http
from actors.maintenance.vector_store import vector_store
from actors.memories.audit_retain import retain_audit_log
from actors.memories.capture import capture
from actors.memories.clean_sessions import clean_auth_sessions
from actors.memories.embed import embed
from actors.memories.forget import forget_memories
from actors.memories.insights import describe_tenants
from actors.memories.reevaluate import reevaluate
from actors.memories.retain import retain_memories
from actors.memories.siem_forward import forward_siem
from actors.memories.siem_forward_tenant import forward_siem_tenant
from actors.memories.summariser import summariser
from actors.memories.summarize import summarize
from actors.memories.sync import sync
from actors.memories.sync_due import sync_due
from actors.memories.tier import tier_memories
from actors.memories.webhook import deliver

__all__ = [
    "capture",
    "clean_auth_sessions",
    "deliver",
    "describe_tenants",
    "embed",
    "embedder",
    "forget_memories",
    "forward_siem",
    "forward_siem_tenant",
    "http",
    "memory",
    "reevaluate",
    "retain_audit_log",
    "retain_memories",
    "summariser",
    "summarize",
    "sync",
    "sync_due",
    "tier_memories",
    "vector_store",
]
