"""Signatures as Standard Webhooks 1.0 describes them (pure): HMAC-SHA256 with a secret that both sides know.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hmac
from datetime import datetime
from hashlib import sha256

PREFIX = "whsec_"
BYTES = range(24, 65)
"""How long a secret is."""


class BadSecret(ValueError):
    """What was given is no secret of a webhook. The message does not show it."""


def read_secrets(text: str) -> list[bytes]:
    """``whsec_`` and the secret in base64; several, while one replaces another, are separated by white space.

    Raises:
        BadSecret: one of them is none, or there is none at all.
    """
    keys = [_read(part) for part in text.split()]
    if not keys:
        raise BadSecret("there is none")
    return keys


def sign(keys: list[bytes], *, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers of an attempt at this moment to deliver exactly these bytes. There is no ``.`` in the id."""
    timestamp = str(int(at.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, sha256)).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _read(text: str) -> bytes:
    if not text.startswith(PREFIX):
        raise BadSecret(f"it does not begin with {PREFIX}")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:  # binascii.Error is one, and what is not ASCII another
        raise BadSecret(f"what follows {PREFIX} is not base64") from None
    if len(key) not in BYTES:
        raise BadSecret(f"it has {len(key)} bytes; 24 to 64 are allowed")
    return key
