"""Says in the log who is refused."""

from typing import Final

from fraudscale.telemetry.logs import Logger, LogLimiter

LOG_SECONDS: Final = 10.0
"""A flood of refused requests is logged once in so many seconds, with their number."""


class RefusedClients:
    """The requests that were refused so that other clients are served."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._log_limiter = LogLimiter(LOG_SECONDS)
        self._count = 0

    def tell(self, client: str) -> None:
        """Count one, and log it if its turn has come."""
        self._count += 1
        if self._log_limiter.allows(""):
            self._log.warning("client_refused", client=client, refused=self._count)
            self._count = 0
