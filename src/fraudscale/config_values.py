"""Texts that a setting may be: each function returns the value to use, or says in a ValueError what it must be."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

Network = IPv4Network | IPv6Network
LEVELS: Final = {
    "trace": "debug",
    "notset": "debug",
    "warn": "warning",
    "fatal": "error",
    "critical": "error",
}
"""Names of other programs: such a variable is often for all that run beside each other."""


def is_utf8(text: str) -> bool:
    """Tell whether an argument, or a value of the environment, was text; Python lets all other bytes pass in disguise."""
    return text.encode(errors="replace").decode() == text


def networks(text: str) -> tuple[Network, ...]:
    """Read a list such as `127.0.0.1,10.0.0.0/8`; empty for none.

    Raises:
        ValueError: one of them is no address and no network.
    """
    return tuple(ip_network(item.strip()) for item in text.split(",") if item.strip())


def http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")) or len(value.split("://", 1)[1]) == 0:
        raise ValueError("must be an address such as http://127.0.0.1:5000")
    if "@" in value.split("://", 1)[1].partition("/")[0]:
        raise ValueError(
            "must not contain a user name or password, because addresses are shown; use the settings for credentials"
        )
    return value.rstrip("/")


def model_uri(value: str) -> str:
    name, at, alias = value.removeprefix("models:/").partition("@")
    if not value.startswith("models:/") or not at or not name or not alias or "/" in name:
        raise ValueError("must be models:/NAME@ALIAS, such as models:/fraud-detector@champion")
    return value


def servers(value: str) -> str:
    for server in value.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not host or not colon or not port.isdigit():
            raise ValueError("must be HOST:PORT[,HOST:PORT …], such as 127.0.0.1:9092")
    return value


def webhook(value: SecretStr) -> SecretStr:
    address = value.get_secret_value()
    if not address.startswith(("http://", "https://")):
        raise ValueError("must be an address such as https://hooks.slack.com/services/…")
    return value


def mail_server(value: str) -> str:
    host, _, port = value.partition(":")
    if not host or not (port or "587").isdigit():
        raise ValueError("must be HOST or HOST:PORT, such as smtp.example.org:587")
    return f"{host}:{port or 587}"


def mail_addresses(value: str) -> str:
    if not all(re.fullmatch(r"[^@\s]+@[^@\s]+", one.strip()) for one in value.split(",")):
        raise ValueError("must be ADDRESS[,ADDRESS …], such as fraud-oncall@example.org")
    return value


def _networks(value: str) -> str:
    try:
        networks(value)
    except ValueError as error:
        raise ValueError(f"{error}; must be ADDRESS[/BITS][,…], such as 127.0.0.1,10.0.0.0/8") from error
    return value


def pairs(value: str) -> str:
    for item in value.split(","):
        name, equals, _ = item.partition("=")
        if not (name.strip() and equals):
            raise ValueError("must be NAME=VALUE[,NAME=VALUE …], values percent-encoded")
    return value


def secret_pairs(value: SecretStr) -> SecretStr:
    pairs(value.get_secret_value())
    return value


def lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def level(value: object) -> object:
    name = lower(value)
    return LEVELS.get(name, name) if isinstance(name, str) else name


Networks = Annotated[str, AfterValidator(_networks)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
