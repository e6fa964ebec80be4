"""Clients that ask without a pause, and hold every answer to the bytes that it should be.

As every client may that asks for the same answer whenever it asks, they ask once more where a connection breaks before
there is an answer.
"""

import threading
import time
from collections import Counter
from typing import NamedTuple, Self

import httpx

ONE = [[0] * 8 for _ in range(8)]
"""An image of the embedded model."""

RIGHT, WRONG = "right", "wrong"
UNANSWERED, UNCONNECTED = "no answer", "not connected"


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        begun: When.
        ended: When.
        kind: One of the above, or the status and the beginning of another answer.
        again: Whether its connection broke before there was an answer, and it was asked once more on another.
    """

    begun: float
    ended: float
    kind: str
    again: bool


class Load:
    """Asks for the bounds of an image while it is entered, by so many clients, each on its own connection.

    Args:
        url: Of the server.
        good: The right answer.
        clients: How many.
        keep: Whether connections are kept; or else each request has a new one.
        rows: How many images of the same pixels a request has.
        draws: For each; the model's own number if not given.
    """

    def __init__(
        self, url: str, good: bytes, clients: int = 4, *, keep: bool = True, rows: int = 1, draws: int | None = None
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._url, self._good = url, good
        self._headers = {} if keep else {"Connection": "close"}
        self._body = {"instances": [ONE] * rows}
        self._query = {} if draws is None else {"num_draws": draws}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    @property
    def seen(self) -> Counter[str]:
        """The answers, counted by kind."""
        return Counter(outcome.kind for outcome in self.outcomes)

    @property
    def again(self) -> int:
        """Requests that were asked once more."""
        return sum(outcome.again for outcome in self.outcomes)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=30) as client:
            while not self._stop.is_set():
                begun = time.monotonic()
                kind = self._ask(client)
                if again := kind == UNANSWERED:
                    kind = self._ask(client)  # Which has no connection any more.
                self.outcomes.append(Outcome(begun, time.monotonic(), kind, again))
                if kind in {UNANSWERED, UNCONNECTED}:
                    time.sleep(0.01)

    def _ask(self, client: httpx.Client) -> str:
        try:
            answer = client.post("/elbo", json=self._body, params=self._query)
        except httpx.ConnectError:
            return UNCONNECTED
        except httpx.TransportError:
            return UNANSWERED
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:100]}"
        return RIGHT if answer.content == self._good else WRONG

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
