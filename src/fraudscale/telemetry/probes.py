"""/metrics, /livez and /readyz for processes that have no HTTP API."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry

from fraudscale.config import MetricsSettings
from fraudscale.metrics import exposition
from fraudscale.telemetry.asgi import listen
from fraudscale.telemetry.small_server import PLAIN, Rejected, Reply, Request, SmallServer, in_thread

_OK: Final = Reply(200, PLAIN, b"ok\n")


class OpsServer(SmallServer):
    """Answers probes and scrapes while the process works."""

    def __init__(
        self,
        settings: MetricsSettings,
        registry: CollectorRegistry,
        not_ready: Callable[[], str | None],
        stuck: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Take the port; answering begins with `start`.

        Args:
            settings: host and port.
            registry: what /metrics shows.
            not_ready: gives the reason why /readyz answers 503, or None.
            stuck: gives the reason why /livez answers 503, or None: whoever asks starts the process again for it.

        Raises:
            SettingsError: the port can't be listened on.
        """
        self._registry = registry
        self._not_ready = not_ready
        self._stuck = stuck
        super().__init__(listen("METRICS_PORT", settings.metrics_host, settings.metrics_port), self._answer)

    async def _answer(self, request: Request) -> Reply:
        match request.path:
            case "/metrics":
                # A slow collector must not hold up a probe: the process would be restarted for it.
                accept = request.headers.get("accept", "")
                body, content_type = await in_thread(lambda: exposition(self._registry, accept))
                return Reply(200, content_type, body)
            case "/livez":
                return _verdict(self._stuck())
            case "/readyz":
                return _verdict(self._not_ready())
            case _:
                raise Rejected(404, "here are /metrics, /livez and /readyz")


def _verdict(reason: str | None) -> Reply:
    if reason is not None:
        raise Rejected(503, reason)
    return _OK
