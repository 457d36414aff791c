"""How a component is asked whether it is ready, or alive."""

import socket
import struct
from typing import Final

from fraudscale.net import NoAnswer, Server

ASK_SECONDS: Final = 1.5
"""How long a component may take to answer."""


def http_ok(url: str) -> bool:
    """Whether a GET of the address is answered with 200, in time."""
    server = Server(url, seconds=ASK_SECONDS)
    try:
        return server.ask("GET", "").status == 200
    except NoAnswer:
        return False
    finally:
        # A connection that is kept open would hold up the stop of the server that is asked.
        server.close()


def kafka_answers(host: str, port: int) -> bool:
    """Whether a broker answers there: one that hangs still takes connections."""
    # ApiVersions, version 0, correlation 1, no client id: the one request that needs no login
    question = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection((host, port), timeout=ASK_SECONDS) as connection:
            connection.sendall(struct.pack(">i", len(question)) + question)
            _, correlation = struct.unpack(">ii", connection.makefile("rb").read(8))
    except (OSError, struct.error):
        return False
    return bool(correlation == 1)
