"""The maintenance of a multi-tenant memory service."""

from actors.maintenance.database import memory
from actors.maintenance.embedder import embedder
from actors.maintenance.http import http
from actors.maintenance.vector_store import vector_store
from actors.memories.audit_retain import retain_audit_log
from actors.memories.capture import capture_candidates
from actors.memories.clean_sessions import clean_auth_sessions
from actors.memories.embed import embed_memories
from actors.memories.forget import forget_memories
from actors.memories.insights import describe_tenants
from actors.memories.reevaluate import reevaluate_memories
from actors.memories.retain import retain_memories
from actors.memories.siem_forward import forward_siem
from actors.memories.siem_forward_tenant import forward_siem_tenant
from actors.memories.summariser import summariser
from actors.memories.summarize import summarize_clusters
from actors.memories.sync import synchronise
from actors.memories.sync_due import dispatch_syncs
from actors.memories.tier import tier_memories
from actors.memories.webhook import deliver

__all__ = [
    "capture_candidates",
    "clean_auth_sessions",
    "deliver",
    "describe_tenants",
    "dispatch_syncs",
    "embed_memories",
    "embedder",
    "forget_memories",
    "forward_siem",
    "forward_siem_tenant",
    "http",
    "memory",
    "reevaluate_memories",
    "retain_audit_log",
    "retain_memories",
    "summariser",
    "summarize_clusters",
    "synchronise",
    "tier_memories",
    "vector_store",
]
