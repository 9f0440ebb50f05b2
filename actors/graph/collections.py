"""The names of the family's collections."""

from actors.maintenance.params import CollectionName
from schemas.base import Model


class Collections(Model):
    """A service with its own names gives them here."""

    graph_nodes: CollectionName = "graph_nodes"
    node_revisions: CollectionName = "node_revisions"
    tags: CollectionName = "tags"
    cache: CollectionName = "cache"
    jobs: CollectionName = "jobs"
    maintenance_state: CollectionName = "maintenance_state"
    """How far jobs got that follow a cursor from run to run: ``{_id: task type, …}``."""
