"""The one module that talks to the store of log lines, in the API that Elasticsearch and OpenSearch share."""

import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from fraudscale.central_logs.documents import Document
from fraudscale.central_logs.fields import DEAD_LOGS, LIFECYCLE, LOGS
from fraudscale.config import CentralLogSettings
from fraudscale.errors import FraudscaleError
from fraudscale.net import Answer, NoAnswer, Server, basic_auth

TIMEOUT_SECONDS: Final = 30.0
LARGEST_ANSWER: Final = 1024 * 1024 * 1024
"""Bytes: the 10,000 lines that a search may find are long at times."""
_TYPES: Final = {"json": "application/json", "lines": "application/x-ndjson"}


class StoreUnavailable(FraudscaleError):
    """It doesn't answer, or can't work now; the same again later is right."""


class StoreRefused(FraudscaleError):
    """It says that the request is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Outcome(NamedTuple):
    """What became of one document of a bulk: the status of its own, and why not, in words and as the store's type."""

    status: int
    reason: str
    kind: str = ""


class IndexSize(NamedTuple):
    """An index of log lines."""

    name: str
    bytes: int


class Store:
    """A store at one address; connections are kept open."""

    def __init__(
        self,
        endpoint: str,
        username: str | None = None,
        password: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.endpoint = endpoint
        headers = {} if username is None else {"Authorization": basic_auth(username, password or "")}
        self._server = Server(endpoint, seconds=timeout, headers=headers, most=LARGEST_ANSWER)

    def close(self) -> None:
        self._server.close()

    def cluster(self) -> str:
        """Return the id of the cluster, which an emptied one hasn't in common with the one before.

        Raises:
            StoreUnavailable: it doesn't answer.
            StoreRefused: it wants other credentials.
        """
        return str(self._json("GET", "/")["cluster_uuid"])

    def install(self, templates: Path) -> None:
        """Put the index templates in place; the lifecycle that Elasticsearch has already stays as it is.

        Raises:
            StoreUnavailable: it doesn't answer.
            StoreRefused: it doesn't take a template.
            OSError: a file can't be read.
        """
        try:
            self._json("GET", f"/_component_template/{LIFECYCLE}")
        except StoreRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._json("PUT", f"/_component_template/{LIFECYCLE}", b'{"template": {}}')
        for name in (LOGS, DEAD_LOGS):
            self._json("PUT", f"/_index_template/{name}", (templates / f"{name}.json").read_bytes())

    def add(self, documents: Sequence[Document]) -> list[Outcome]:
        """Add documents; one whose id is there already stays as it is and gets 409.

        Returns:
            an outcome a document, in their order.

        Raises:
            StoreUnavailable: none or some of them are there; the same again is right.
            StoreRefused: the whole of it, as with 413 when it is too long.
        """
        body = b"".join(_actions(documents))
        answer = self._json("POST", "/_bulk?filter_path=items.*.status,items.*.error", body, kind="lines")
        return [
            Outcome(one["status"], _reason(error), (error or {}).get("type", ""))
            for item in answer.get("items", [])
            for one in (item["create"],)
            for error in (one.get("error"),)
        ]

    def sizes(self) -> list[IndexSize]:
        """List the indices of log lines.

        Raises:
            StoreUnavailable: it doesn't answer.
            StoreRefused: it doesn't tell.
        """
        path = f"/_cat/indices/{LOGS}-*,{DEAD_LOGS}-*?format=json&bytes=b&h=index,store.size"
        return [IndexSize(row["index"], int(row["store.size"] or 0)) for row in self._json("GET", path)]

    def delete(self, index: str) -> None:
        """Delete an index and what is in it.

        Raises:
            StoreUnavailable: it doesn't answer.
            StoreRefused: it doesn't do it.
        """
        self._json("DELETE", f"/{quote(index)}?ignore_unavailable=true")

    def search(self, indices: str, query: Mapping[str, Any], limit: int) -> tuple[list[dict[str, Any]], int]:
        """Find documents in the order of their time.

        Returns:
            the first `limit` of them, and how many there are.

        Raises:
            StoreUnavailable: it doesn't answer.
            StoreRefused: it doesn't take the query.
        """
        asked = {
            "query": query,
            "size": limit,
            "track_total_hits": True,
            "sort": [
                {"timestamp": {"order": "asc", "unmapped_type": "date"}},
                {"log.file": {"order": "asc", "unmapped_type": "keyword"}},
                {"log.offset": {"order": "asc", "unmapped_type": "long"}},
            ],
        }
        answer = self._json("POST", f"/{indices}/_search?ignore_unavailable=true", msgspec.json.encode(asked))
        hits = answer["hits"]
        return [hit["_source"] for hit in hits["hits"]], hits["total"]["value"]

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "json") -> Any:
        answer = self._ask(method, path, body, kind)
        status = answer.status
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StoreUnavailable(f"{status}: {_message(answer)}")
        if status >= HTTPStatus.BAD_REQUEST:
            raise StoreRefused(status, _message(answer))
        try:
            return answer.json()
        except NoAnswer as error:
            raise StoreUnavailable(f"{self.endpoint} answers what is no JSON; is it the store?") from error

    def _ask(self, method: str, path: str, body: bytes | None, kind: str) -> Answer:
        headers = {"Content-Type": _TYPES[kind]} if body is not None else None
        try:
            return self._server.ask(method, path, body=body, headers=headers)
        except NoAnswer as error:
            raise StoreUnavailable(str(error)) from error


def open_store(endpoint: str, settings: CentralLogSettings) -> Store:
    """Make the store at an address, with the credentials of the settings; nothing is asked of it yet."""
    password = settings.opensearch_password
    return Store(endpoint, settings.opensearch_username, password.get_secret_value() if password else None)


def _actions(documents: Sequence[Document]) -> Iterator[bytes]:
    for one in documents:
        yield msgspec.json.encode({"create": {"_index": one.index, "_id": one.id}})
        yield b"\n"
        yield one.body
        yield b"\n"


def _reason(error: Mapping[str, Any] | None) -> str:
    if not error:
        return ""
    cause = error.get("caused_by") or {}
    return ": ".join(str(text) for text in (error.get("reason"), cause.get("reason")) if text)


def _message(answer: Answer) -> str:
    try:
        error = json.loads(answer.body)["error"]
        return str(error["reason"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return answer.text()
