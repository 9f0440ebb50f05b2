"""Attempts with wrong keys, counted for each address, in bounded memory."""

import time
from collections import OrderedDict

MOST = 10
"""So many at once; then one more every ``AGAIN_SECONDS``."""
AGAIN_SECONDS = 6.0
MOST_ADDRESSES = 10_000
"""The one that failed longest ago is forgotten first."""


class Attempts:
    """A bucket for each address.

    A valid key is never counted, and never refused: an attacker behind the same proxy must not lock everybody out, and
    256 random bits are not guessed, however often one tries.
    """

    def __init__(self) -> None:
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def fail(self, address: str) -> float | None:
        """Note a failure. None, or the seconds to wait: there were too many."""
        now = time.monotonic()
        used, at = self._used.pop(address, (0.0, now))
        used = max(0.0, used - (now - at) / AGAIN_SECONDS)
        refused = used + 1 > MOST
        self._used[address] = (used if refused else used + 1, now)
        if len(self._used) > MOST_ADDRESSES:
            self._used.popitem(last=False)
        return (used + 1 - MOST) * AGAIN_SECONDS if refused else None
