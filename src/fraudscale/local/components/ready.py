"""How a component is asked whether it is ready."""

import socket
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


def tcp_open(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=ASK_SECONDS):
            return True
    except OSError:
        return False
