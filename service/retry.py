"""When the next attempt of a failed task runs (pure)."""

import random
import sys
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter, or an explicit list of delays.

    Full jitter (a uniform draw between zero and the bound) spreads a herd best:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    base: timedelta = timedelta(seconds=2)
    factor: float = 2.0
    cap: timedelta = timedelta(hours=1)
    jitter: bool = True
    delays: tuple[timedelta, ...] = ()
    """Used as they are; the last one repeats."""
    non_retryable: tuple[type[BaseException], ...] = ()

    def delay(self, retry_count: int, rng: random.Random) -> timedelta:
        """How long to wait after failure number ``retry_count + 1``."""
        if self.delays:
            return self.delays[min(retry_count, len(self.delays) - 1)]
        bound = self.bound(retry_count)
        return bound * rng.random() if self.jitter else bound

    def bound(self, retry_count: int) -> timedelta:
        """The longest wait after failure number ``retry_count + 1``."""
        try:
            growth = self.factor**retry_count
        except OverflowError:  # 2.0 ** 5000: the cap is long reached, unless the base is zero
            growth = sys.float_info.max
        seconds = self.base.total_seconds() * growth
        return self.cap if seconds >= self.cap.total_seconds() else timedelta(seconds=seconds)
