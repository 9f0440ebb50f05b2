"""Control messages: hints to every process."""

from collections.abc import Callable

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from schemas.event import ControlMessage
from service.log_events import LogEvent

LARGEST_BYTES = 64 * 1024


def read_control(on_message: Callable[[ControlMessage], None], log: FilteringBoundLogger) -> Callable[[bytes], None]:
    """What takes the bytes of a message, and hands on what it means; nonsense is a line in the log."""

    def read(body: bytes) -> None:
        if len(body) > LARGEST_BYTES:
            log.warning(LogEvent.CONTROL_REFUSED, reason="too large", size=len(body))
            return
        try:
            control = ControlMessage.model_validate_json(body)
        except ValidationError as exc:
            log.warning(LogEvent.CONTROL_REFUSED, reason=str(exc.errors(include_input=False, include_url=False)))
            return
        on_message(control)

    return read
