"""Who has how many of a bounded number of places, and who has most: where room is short, that one makes it."""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Place = TypeVar("Place", bound=Hashable)


class Shares(Generic[Place]):
    """The places of each client. Each step takes the same time, however many clients there are."""

    def __init__(self) -> None:
        self._places: dict[str, dict[Place, None]] = {}
        self._clients_with: Final[dict[int, dict[str, None]]] = {}
        """Clients by the number of their places."""
        self._most = 0

    def of(self, client: str) -> int:
        """Return how many places the client has."""
        return len(self._places.get(client, ()))

    def greediest_but(self, client: str) -> str | None:
        """Return who has most places; None if that is the client itself, once it has one more."""
        if self.of(client) + 1 >= self._most:
            return None
        return next(iter(self._clients_with[self._most]))

    def add(self, client: str, place: Place) -> None:
        self._places.setdefault(client, {})[place] = None
        self._moved(client, self.of(client) - 1)

    def drop(self, client: str, place: Place) -> bool:
        """Forget a place; tell whether it was one still."""
        places = self._places.get(client, {})
        if place not in places:
            return False
        del places[place]
        if not places:
            del self._places[client]  # else the table grows by each client that ever had one
        self._moved(client, len(places) + 1)
        return True

    def latest_of(self, client: str) -> Place:
        """Return the place that a client with any took last."""
        return next(reversed(self._places[client]))

    def _moved(self, client: str, before: int) -> None:
        """Put the client, who had `before` places and has one more or less, where it belongs."""
        if before:
            peers = self._clients_with[before]
            del peers[client]
            if not peers:
                del self._clients_with[before]
        if now := self.of(client):
            self._clients_with.setdefault(now, {})[client] = None
        # Who had most has one less now, or somebody got one more: it changes by one at most.
        if now > self._most or self._most not in self._clients_with:
            self._most = now
