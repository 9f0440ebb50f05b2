"""The housekeeping of a knowledge graph."""

from actors.graph.cache_cleanup import clean_cache
from actors.graph.revision_counts import refresh_revision_counts
from actors.graph.stale_jobs import fail_stale_jobs
from actors.graph.tag_cleanup import clean_tags
from actors.maintenance.database import memory

__all__ = ["clean_cache", "clean_tags", "fail_stale_jobs", "memory", "refresh_revision_counts"]
