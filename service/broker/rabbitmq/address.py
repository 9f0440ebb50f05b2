"""Where the broker is, in a form that can be shown."""

from dataclasses import dataclass, field

from yarl import URL

from service.errors import ConfigError

HEARTBEAT_SECONDS = 10
"""Between 5 and 20 is the broker's advice; the driver's own 60 would notice a frozen broker after three minutes."""

_ESCAPE = "; write it as amqp://user:password@host:5672/vhost, with special characters in the password %-escaped"


@dataclass(frozen=True)
class Address:
    """A broker's URL; only ``shown`` may appear in logs and errors."""

    url: URL = field(repr=False)
    shown: str
    """``host:port/vhost``."""
    user: str


def parse_address(url: str) -> Address:
    """Read an ``amqp://`` or ``amqps://`` URL. Raises ConfigError, which never repeats it: it holds a password."""
    try:
        parsed = URL(url)
        port = parsed.port or (5671 if parsed.scheme == "amqps" else 5672)
    except ValueError:
        # The reason quotes the URL, up to parts of the password.
        raise ConfigError("VERGER_AMQP_URL is no URL" + _ESCAPE) from None
    if parsed.scheme not in {"amqp", "amqps"} or not parsed.host:
        raise ConfigError("VERGER_AMQP_URL does not name a broker" + _ESCAPE)
    if "heartbeat" not in parsed.query:
        parsed = parsed.update_query(heartbeat=str(HEARTBEAT_SECONDS))
    vhost = parsed.path.lstrip("/")
    return Address(parsed, f"{parsed.host}:{port}/{vhost}", parsed.user or "guest")
