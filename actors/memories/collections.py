"""The names of the family's collections."""

from actors.maintenance.params import CollectionName
from schemas.base import Model


class Collections(Model):
    """A service with its own names gives them here."""

    memories: CollectionName = "memories"
    clusters: CollectionName = "clusters"
    recall_events: CollectionName = "recall_events"
    capture_queue: CollectionName = "capture_queue"
    integrations: CollectionName = "integrations"
    audit_log: CollectionName = "audit_log"
    siem_endpoints: CollectionName = "siem_endpoints"
    auth_sessions: CollectionName = "auth_sessions"
    insights: CollectionName = "insights"
    webhook_endpoints: CollectionName = "webhook_endpoints"
    maintenance_state: CollectionName = "maintenance_state"
    """How far jobs got that follow a cursor from run to run: ``{_id: task type, …}``."""
