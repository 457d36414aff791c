"""Says in the log who is refused."""

from typing import Final

from fraudscale.telemetry.logs import Logger

LOG_SECONDS: Final = 10.0
"""A flood of refused requests is logged once in so many seconds, with their number."""


class RefusedClients:
    """The requests that were refused so that other clients are served."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._count, self._logged_at = 0, -LOG_SECONDS

    def tell(self, client: str, now: float) -> None:
        """Count one, and log it if its turn has come; `now` is of `perf_counter()`."""
        self._count += 1
        if now - self._logged_at >= LOG_SECONDS:
            self._log.warning("client_refused", client=client, refused=self._count)
            self._count, self._logged_at = 0, now
