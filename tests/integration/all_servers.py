"""Every HTTP server of ours in one process, composed as the commands do it: FOLDER (of an artifact) → their ports, as JSON.

Ends at the end of its input, and says then which requests failed by an error of ours.
"""

import json
import sys
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fraudscale import metrics
from fraudscale.central_logs.ship import REASONS
from fraudscale.config import MetricsSettings
from fraudscale.console import server as console
from fraudscale.console.upstream import Prometheus
from fraudscale.scoring import model
from fraudscale.telemetry import small_server
from fraudscale.telemetry.probes import OpsServer
from http_endpoint import compose, serving

ROOT = Path(__file__).parents[2]
BODY_SECONDS = 0.2
"""A body that does not come is given up soon: some requests promise more than they send."""


def prometheus():
    """A server in the place of Prometheus, which answers every question."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"status":"success"}')

        do_GET = do_POST = answer  # noqa: N815  the base class looks for them

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return Prometheus(f"http://127.0.0.1:{made.server_port}")


def ops(*collectors):
    settings = MetricsSettings.model_construct(metrics_host="127.0.0.1", metrics_port=0)
    return OpsServer(settings, metrics.replica_registry(100, *collectors), lambda: None)


def small_servers(home):
    """Name → server, of each process that is no `serve`."""
    kafka = metrics.KafkaMetrics(consumed="transactions", produced=("transactions.scored",))
    table = console.pages(ROOT / "docs/runbooks")
    dashboard = ROOT / "monitoring/dashboards/ml-model-dashboard.json"
    return {
        "stream": ops(metrics.ModelMetrics(), kafka),
        "autoscaler": ops(metrics.HpaMetrics(), metrics.QueueMetrics()),
        "ship-logs": ops(metrics.LogShippingMetrics(REASONS)),
        "console": console.create_server(0, console.Console(table, dashboard, home, prometheus())),
    }


def main(folder):
    small_server.BODY_SECONDS = BODY_SECONDS
    served = compose(body_timeout_seconds=BODY_SECONDS)
    files = {name: (folder / name).read_bytes() for name in model.SERVED_FILES}
    served.scorer.install(
        model.build((folder / model.MANIFEST).read_bytes(), files, version="1", alias="champion")
    )
    with ExitStack() as running:
        ports = {"serve": running.enter_context(serving(served))}
        for name, server in small_servers(folder).items():
            server.start()
            running.callback(server.stop)
            ports[name] = server.port
        print(json.dumps(ports), flush=True)  # noqa: T201 - for the test
        sys.stdin.read()
    print(json.dumps([repr(line) for line in served.logged if line["event"] == "request_failed"]))  # noqa: T201


main(Path(sys.argv[1]))
