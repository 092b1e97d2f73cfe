"""When the next request may be sent: the rate limit, and the wait before another try."""

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

#: Longest wait, in seconds, even if a server asks for a longer one.
LONGEST_PAUSE = 600.0


class RateLimit:
    """Spaces starts evenly, for any number of threads."""

    def __init__(
        self,
        per_minute: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Allow `per_minute` starts a minute; 0 for any number."""
        self._interval = 60.0 / per_minute if per_minute > 0 else 0.0
        self._next = -math.inf
        self._lock = threading.Lock()
        self._clock, self._sleep = clock, sleep

    def wait(self) -> None:
        """Wait until it is this caller's turn."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._interval
        if start > now:
            self._sleep(start - now)


def backoff(attempt: int, headers: Mapping[str, str], first: float, longest: float) -> float:
    """Return the seconds to wait after a failed try: what `Retry-After` says, or first * 2^attempt with jitter.

    Args:
        attempt: Number of the try that failed, from 0.
        headers: Headers of the response, if there was one.
        first: Seconds after the first try.
        longest: Upper bound of the exponential wait.
    """
    told = _retry_after(headers)
    if told is not None:
        return min(told, LONGEST_PAUSE)
    # Jitter keeps the threads of a pool from coming back all at once.
    return min(longest, first * 2.0**attempt) * random.uniform(0.5, 1.0)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    milliseconds, value = headers.get("retry-after-ms", ""), headers.get("retry-after")
    if milliseconds.isdecimal():
        return int(milliseconds) / 1000
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
