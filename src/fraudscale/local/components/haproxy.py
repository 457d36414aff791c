"""HAProxy in front of all replicas: its process, its configuration with all limits, its own answers."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from math import ceil
from pathlib import Path
from string import Template
from typing import Final

from fraudscale.config import HttpSettings
from fraudscale.config_values import networks
from fraudscale.local.components.blueprint import ENTRY_PHASE, Blueprint
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.debian import library_path
from fraudscale.local.install.ports import HOST, MAX_REPLICAS, MIN_REPLICAS, Ports
from fraudscale.local.supervisor.component import Component
from fraudscale.telemetry.asgi import READ_ON, REPLICA_HEADER
from fraudscale.web.problems import Problem

RATE_PER_SECOND: Final = 1000.0
"""Of one client, unless the settings say otherwise: who sends more floods us."""
BALANCER_ERRORS: Final[Mapping[int, str]] = {
    400: "the request is not valid HTTP",
    408: "the head of the request did not arrive within 5 s, or its body within 10 s more",
    413: "the body is far larger than is taken (MAX_BODY_BYTES)",
    429: "this client sends more than {rate:g} requests a second (RATE_LIMIT_PER_SECOND)",
    500: "an unexpected error of the balancer; its log says which",
    502: "what answers at a replica's port gave no valid HTTP, or nothing that a replica says",
    503: "no replica is ready to answer",
    504: "no replica answered in time",
}
SOCKET: Final = "haproxy.sock"
TOO_MANY_CONNECTIONS: Final = "this client has more connections than it may (CONNECTIONS_PER_CLIENT, or a quarter of it where the entry is half full)"
_BACKEND: Final = "replicas"
_SLOT: Final = "replica-{}"
_UNCHECKED: Final = "replica-{}-unchecked"
_CFG: Final = Template("""\
global
    # Beside this file. Through it the supervisor says which slots may be sent to (local/routes.py).
    stats socket unix@$socket mode 600 level admin
    # No `log`: in the foreground it tells of replicas going up and down anyway; they log the requests themselves.
    maxconn 4096

defaults
    mode http
    timeout http-request 5s
    timeout client 10s
    timeout http-keep-alive 60s
    timeout connect 1s
    timeout server 15s
    timeout queue 5s
    timeout check 1s
    # A connection that is opened in advance and not used is closed without a 408: its next request would take that as its answer.
    option http-ignore-probes
    # Scoring twice gives the same answer, so a request that meets a dying replica goes to another one.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response response-timeout
$answers

frontend entry
    bind $entry
    option forwardfor
    # A few less than the whole process may have: however full it is, its metrics answer.
    maxconn 4000
    acl trusted $trusted
    acl probe path /livez /readyz
    # What is remembered of a client, an IPv6 one being its /64: at most 100,000 of them (12 MB), the oldest forgotten first.
    stick-table type ipv6 size 100k expire ${expire}s store conn_cur,gpc0_rate(${brief_ms}ms),gpc1_rate(${long_ms}ms)
    tcp-request connection track-sc0 src,ipmask(32,64) unless trusted
    # A connection too many is told so, if it asks anything; of as many again nobody listens.
    tcp-request connection reject if { sc0_conn_cur gt $connections_twice }
    tcp-request connection set-var(sess.too_many) bool(true) if { sc0_conn_cur gt $connections }
    http-request deny deny_status 429 errorfile "$too_many" if { var(sess.too_many) -m bool }
    # Half full, it takes no more from whoever has most already.
    http-request deny deny_status 429 errorfile "$too_many" if { fe_conn gt 2000 } { sc0_conn_cur gt $connections_quarter }
    # Only what is let through is counted, so a client that sends too much still gets its rate. Probes have a count of their own.
    http-request track-sc1 src,ipmask(32,64) table probes if probe !trusted
    http-request deny deny_status 429 if !probe { sc0_gpc0_rate gt $burst_brief } or !probe { sc0_gpc1_rate gt $burst_long }
    http-request deny deny_status 429 if probe { sc1_gpc0_rate gt $burst_brief }
    http-request sc-inc-gpc0(0) if !probe
    http-request sc-inc-gpc1(0) if !probe
    http-request sc-inc-gpc0(1) if probe
    # What is somewhat too long a replica refuses: it reads on for a while, so that the client sees the answer and no reset.
    http-request deny deny_status 413 if { req.body_size gt $longest_body }
    http-request set-var(txn.predict) bool(true) if { path_beg /predict }
    # Only a request that was read whole can be sent again to another replica: up to one buffer, 16 KB.
    http-request wait-for-body time 10s if METH_POST
    default_backend $backend

backend probes
    stick-table type ipv6 size 100k expire ${expire}s store gpc0_rate(${brief_ms}ms)

backend $backend
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
    # Anybody who has the port of a slot may answer 200 there.
    http-check expect hdr name $replica_header value-lf "%[srv_name]@$run_id"
    # All in maintenance until the supervisor has seen that its own child has the port.
$slots
    # Between two checks a port can change hands: nobody takes a stranger's page for a prediction.
    http-response deny deny_status 502 if { var(txn.predict) -m bool } !{ res.hdr(content-type) -m beg application/json application/problem+json }
    # On a busy machine all of them may answer their checks too late. Then a request goes to any of those that are always there:
    # one that only stalls answers it in the end, and one that just died refuses the connection, so that the next is tried.
    option allbackups
$unchecked

frontend metrics
    bind $metrics
$exporter    stats enable
    stats uri /
""")


def component(b: Blueprint) -> Component:
    return Component(
        "haproxy",
        # From its own folder: the path of a socket may have a hundred characters.
        (str(b.tools.haproxy), "-db", "-C", str(b.run), "-f", str(b.run / "haproxy.cfg")),
        ready=lambda: http_ok(f"http://{HOST}:{b.ports.entry}/readyz"),
        alive=lambda: http_ok(f"http://{HOST}:{b.ports.haproxy_metrics}/"),
        needs=("replica-1/serve",),
        address=f"http://{HOST}:{b.ports.entry}",
        env=library_path(b.tools.haproxy_libraries),
        stop_phase=ENTRY_PHASE,
        stop_seconds=1,
    )


def cfg(
    ports: Ports, errors: Path, http: HttpSettings, *, run_id: str, trusted_clients: str, exports: bool
) -> str:
    """Render the configuration: all replica slots, each of which comes and goes by its own `/readyz`, and the limits.

    HAProxy holds the limits of rate, connections and bodies for all replicas together; theirs remain behind it.

    Args:
        ports: the entry, the slots, and the port of HAProxy's own metrics.
        errors: the folder of its own answers (`error_files`).
        http: the limits.
        run_id: what its own replicas say beside their name.
        trusted_clients: addresses and networks that the limits don't hold for; empty for none.
        exports: whether this HAProxy has the Prometheus exporter.
    """
    trusted = [str(network) for network in networks(trusted_clients)]
    return _CFG.substitute(
        _limits(http),
        entry=f"{HOST}:{ports.entry}",
        metrics=f"{HOST}:{ports.haproxy_metrics}",
        socket=SOCKET,
        backend=_BACKEND,
        replica_header=REPLICA_HEADER,
        run_id=run_id,
        answers="\n".join(
            f'    errorfile {status} "{errors / f"{status}.http"}"' for status in BALANCER_ERRORS
        ),
        too_many=errors / "429-connections.http",
        trusted=f"src {' '.join(trusted)}" if trusted else "always_false",
        slots="\n".join(
            f"    server {_SLOT.format(i)} {HOST}:{port} check inter 300ms rise 1 fall 1 observe layer4 disabled"
            for i, port in enumerate(ports.serve, 1)
        ),
        unchecked="\n".join(
            f"    server {_UNCHECKED.format(i)} {HOST}:{port} backup disabled"
            for i, port in enumerate(ports.serve[:MIN_REPLICAS], 1)
        ),
        exporter="    http-request use-service prometheus-exporter if { path /metrics }\n" if exports else "",
    )


def servers() -> Iterator[tuple[int, str]]:
    """The slots (1, 2 …), and what HAProxy calls them: most have two names."""
    yield from ((i, f"{_BACKEND}/{_SLOT.format(i)}") for i in range(1, MAX_REPLICAS + 1))
    yield from ((i, f"{_BACKEND}/{_UNCHECKED.format(i)}") for i in range(1, MIN_REPLICAS + 1))


def _rate(http: HttpSettings) -> float:
    return http.rate_limit_per_second or RATE_PER_SECOND


def _limits(http: HttpSettings) -> dict[str, int]:
    # A token bucket gives at most burst + rate * t in any t seconds. The balancer holds that for two lengths of t, so it never
    # refuses whom the bucket would not; who sends without end gets 5/4 of the rate.
    rate = _rate(http)
    burst = http.burst(rate)
    brief_ms = max(1, round(1000 * burst / rate))
    return {
        "brief_ms": brief_ms,
        "long_ms": 4 * brief_ms,
        "burst_brief": 2 * burst,
        "burst_long": 5 * burst,
        "expire": max(10, brief_ms * 8 // 1000),
        "connections": http.connections_per_client,
        "connections_quarter": max(1, http.connections_per_client // 4),
        "connections_twice": 2 * http.connections_per_client,
        "longest_body": http.max_body_bytes * READ_ON,
    }


def files(b: Blueprint) -> dict[Path, str]:
    """The configuration, and the answers that it names."""
    folder = b.run / "errors"
    return {
        b.run / "haproxy.cfg": cfg(
            b.ports,
            folder,
            b.http,
            run_id=b.run_id,
            trusted_clients=b.trusted_clients,
            exports=b.tools.haproxy_exports,
        ),
        **{folder / name: content for name, content in error_files(b.http).items()},
    }


def error_files(http: HttpSettings) -> dict[str, str]:
    """The balancer's own answers, by file name."""
    rate = _rate(http)
    again = ceil(1 / rate)
    return {
        **{
            f"{status}.http": error_file(status, detail.format(rate=rate), again if status == 429 else 1)
            for status, detail in BALANCER_ERRORS.items()
        },
        "429-connections.http": error_file(429, TOO_MANY_CONNECTIONS),
    }


def error_file(status: int, detail: str, retry_after: int = 1) -> str:
    """A whole HTTP answer, problem JSON like the replicas' own.

    A file and not an `http-error` line, because newer versions use files for requests that can't be parsed too; 2.6 answers
    those, and a head that never ends, with a page of its own.
    """
    body = Problem(status, detail).body.decode()
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "cache-control: no-cache",
        *([f"retry-after: {retry_after}"] if status in {429, 503, 504} else []),
        "connection: close",
    ]
    return "\r\n".join([*head, "", body])
