"""What the routes work with."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from actors.health import Health
from actors.maintenance.database import Database
from actors.metrics_page import MetricsPage
from service.broker.port import Broker
from service.client import Client
from service.registry import Registry
from service.settings import Settings
from service.store.port import Store


@dataclass(frozen=True)
class Parts:
    """The parts of the process that serves the API."""

    settings: Settings
    store: Store
    broker: Broker
    registry: Registry
    client: Client
    health: Health
    metrics: MetricsPage
    memory: Database
    """That of the maintenance actors."""


def parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


Engine = Annotated[Parts, Depends(parts)]
"""The type of a route's parameter."""
