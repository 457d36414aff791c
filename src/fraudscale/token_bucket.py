"""How often something may happen: a token bucket for each of many.

Pure: `now` is an argument. It is on the way of every request, so it is cheap.
"""

from typing import Final

ROUNDING_SECONDS: Final = 1e-6
"""Far above the rounding of a sum of instants, far below the time between two tokens."""


class TokenBuckets:
    """A token bucket for each client, the table of them bounded.

    A bucket is one number: the instant at which it will be full again (the generic cell rate algorithm, ITU-T I.371).
    In any window of `t` seconds a client gets at most `burst + rate * t` tokens.
    """

    def __init__(self, rate: float, burst: int, most: int) -> None:
        """Make the table.

        Args:
            rate: tokens a second that a bucket gains.
            burst: tokens in a full one.
            most: buckets kept; for one more the idlest is forgotten, which makes it full.
        """
        self._interval = 1 / rate
        self._slack = (burst - 1) / rate + ROUNDING_SECONDS
        self._most = most
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, now: float) -> float:
        """Take a token: 0.0, or the seconds until there will be one; then nothing is taken."""
        table = self._full_at
        # Taken out and put in again at the end: so the dictionary is in the order of use. Who is refused is not idle either.
        full_at = table.pop(client, now)
        wait = full_at - now - self._slack
        if wait > 0:
            table[client] = full_at
            return wait
        table[client] = max(now, full_at) + self._interval
        if len(table) > self._most:
            del table[next(iter(table))]
        return 0.0
