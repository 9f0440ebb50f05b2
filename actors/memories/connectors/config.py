"""The configuration of an integration, as its connector reads it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from actors.memories.connectors.port import ConnectorRefused
from schemas.base import Model

C = TypeVar("C", bound=Model)


def read_config(model: type[C], config: Mapping[str, Any]) -> C:
    """Raises ConnectorRefused, which names the field."""
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(["config", *map(str, problem["loc"])])
        raise ConnectorRefused(f"{field}: {problem['msg'].lower()}") from None
