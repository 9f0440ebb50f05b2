"""Where candidates come from: ``kind`` of an integration → its connector. Another one is a file beside these."""

from collections.abc import Callable, Mapping

from actors.memories.connectors.folder import Folder
from actors.memories.connectors.http_json import HttpJson
from actors.memories.connectors.port import Connector, Source

CONNECTORS: Mapping[str, Callable[[Source], Connector]] = {"http_json": HttpJson, "folder": Folder}
"""Each raises ConnectorRefused when the config does not fit."""
