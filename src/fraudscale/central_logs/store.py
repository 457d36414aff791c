"""The one module that talks to the store of log lines, in the API that Elasticsearch and OpenSearch share."""

import json
from collections.abc import Mapping, Sequence
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
ALL_LOGS: Final = f"{LOGS}-*,{DEAD_LOGS}-*"


class StoreUnavailable(FraudscaleError):
    """It doesn't answer, or can't work now; the same again later is right."""


class StoreRefused(FraudscaleError):
    """It says that the request is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class RequestTooLong(StoreRefused):
    """It takes the same in smaller pieces."""


class BulkOutcome(NamedTuple):
    """What became of one document of a bulk: the status of its own, and why not, in words and as the store's type."""

    status: int
    reason: str
    kind: str = ""


class IndexSize(NamedTuple):
    """An index of log lines."""

    name: str
    bytes: int


class Store:
    """A store at one address; connections are kept open.

    Whatever asks it raises StoreUnavailable where it doesn't answer, and StoreRefused where it says no: to our credentials,
    to a template, to a request that is too long.
    """

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
        """Return the id of the cluster, which an emptied one hasn't in common with the one before."""
        return str(self._json("GET", "/")["cluster_uuid"])

    def install(self, templates: Path) -> None:
        """Put the index templates in place; the lifecycle that Elasticsearch has already stays as it is.

        Raises:
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

    def add(self, documents: Sequence[Document]) -> list[BulkOutcome]:
        """Add documents, some of them even where it raises StoreUnavailable: the same again is right.

        Returns:
            an outcome a document, in their order; 409 where the id is there already, whose document stays as it is.
        """
        body = b"".join(_action(one) for one in documents)
        answer = self._json("POST", "/_bulk?filter_path=items.*.status,items.*.error", body, kind="x-ndjson")
        return [_outcome(item["create"]) for item in answer.get("items", [])]

    def sizes(self) -> list[IndexSize]:
        """List the indices of log lines."""
        path = f"/_cat/indices/{ALL_LOGS}?format=json&bytes=b&h=index,store.size"
        return [IndexSize(row["index"], int(row["store.size"] or 0)) for row in self._json("GET", path)]

    def delete(self, index: str) -> None:
        """Delete an index and what is in it."""
        self._json("DELETE", f"/{quote(index)}?ignore_unavailable=true")

    def search(self, query: Mapping[str, Any], limit: int) -> tuple[list[dict[str, Any]], int]:
        """Find lines and dead letters; return the first `limit` of them by their time, and how many there are."""
        order = {"timestamp": "date", "log.file": "keyword", "log.offset": "long"}
        asked = {
            "query": query,
            "size": limit,
            "track_total_hits": True,
            "sort": [{name: {"order": "asc", "unmapped_type": kind}} for name, kind in order.items()],
        }
        path = f"/{ALL_LOGS}/_search?ignore_unavailable=true"
        hits = self._json("POST", path, msgspec.json.encode(asked))["hits"]
        return [hit["_source"] for hit in hits["hits"]], hits["total"]["value"]

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "json") -> Any:
        answer = self._ask(method, path, body, kind)
        status = answer.status
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StoreUnavailable(f"{status}: {_message(answer)}")
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise RequestTooLong(status, _message(answer))
        if status >= HTTPStatus.BAD_REQUEST:
            raise StoreRefused(status, _message(answer))
        try:
            return answer.json()
        except NoAnswer as error:
            raise StoreUnavailable(
                f"{self.endpoint} answered with a body that is not JSON; is that the address of the store?"
            ) from error

    def _ask(self, method: str, path: str, body: bytes | None, kind: str) -> Answer:
        headers = {"Content-Type": f"application/{kind}"} if body is not None else None
        try:
            return self._server.ask(method, path, body=body, headers=headers)
        except NoAnswer as error:
            raise StoreUnavailable(str(error)) from error


def open_store(endpoint: str, settings: CentralLogSettings) -> Store:
    """Make the store at an address, with the credentials of the settings; nothing is asked of it yet."""
    password = settings.opensearch_password
    return Store(endpoint, settings.opensearch_username, password.get_secret_value() if password else None)


def _action(one: Document) -> bytes:
    # `create`, not `index`: what is there already must stay as it is, whoever sends it again
    action = msgspec.json.encode({"create": {"_index": one.index, "_id": one.line.id}})
    return b"%s\n%s\n" % (action, one.body)


def _outcome(item: Mapping[str, Any]) -> BulkOutcome:
    error = item.get("error") or {}
    causes = (error.get("reason"), (error.get("caused_by") or {}).get("reason"))
    return BulkOutcome(item["status"], ": ".join(str(one) for one in causes if one), error.get("type", ""))


def _message(answer: Answer) -> str:
    try:
        error = json.loads(answer.body)["error"]
        return str(error["reason"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return answer.text()
