"""HTTP to addresses that strangers name: webhooks, connectors, SIEM endpoints. Resource ``http``."""

from actors.maintenance.http.client import Answer, Http, http
from actors.maintenance.http.errors import HttpRefused, HttpUnavailable

__all__ = ["Answer", "Http", "HttpRefused", "HttpUnavailable", "http"]
