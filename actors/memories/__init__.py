"""The maintenance of a multi-tenant memory service."""
