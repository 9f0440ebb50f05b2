"""A small data set on which every maintenance actor has something to do: three tenants of an AI-memory service.

A module for each family; ``seed`` writes them. Everything can be told from a service's own data: an id or a tenant
begins with ``demo-``, a path with ``/demo/``. Ids and texts are always the same; instants are relative to now.
"""
