"""The logs of a command, on stderr."""

from typing import Any

from actors.cli import whole_program
from service.logs import configure_logs
from service.settings import Settings


def set_up_logs(settings: Settings, **assumed: Any) -> None:
    """As the settings say; ``assumed`` stands for settings that nobody has set."""
    if whole_program.get():
        given = settings.model_fields_set
        configure_logs(settings.model_copy(update={name: assumed[name] for name in assumed if name not in given}))
