"""Where there are too many connections, the one closest to its deadline makes room, also where many come at once."""

import math
import resource
from typing import Any

from service.server.crowd import Crowd


class Client:
    """A connection that counts how often connections are looked at."""

    looks = 0

    def __init__(self, crowd: Crowd, deadline: float) -> None:
        self._crowd: Any = crowd
        self._deadline = deadline
        self.dropped = False
        self._crowd.connections.add(self)

    @property
    def deadline(self) -> float:
        Client.looks += 1
        return self._deadline

    def drop(self) -> None:
        self.dropped = True
        self._deadline = math.inf

    def leave(self) -> None:
        self._crowd.connections.remove(self)

    def wait_until(self, deadline: float) -> None:
        self._deadline = deadline


def test_the_closest_to_its_deadline_makes_room() -> None:
    crowd = Crowd()
    clients = [Client(crowd, deadline) for deadline in (3, 1, math.inf, 2, 5, 4)]
    newest = Client(crowd, 0)
    for dropped in ([1], [1, 3]):
        assert crowd.make_room(newest)
        assert [i for i, client in enumerate(clients) if client.dropped] == dropped
    clients[0].leave()
    clients[5].wait_until(9)
    for dropped in ([1, 3, 4], [1, 3, 4, 5]):
        assert crowd.make_room(newest)
        assert [i for i, client in enumerate(clients) if client.dropped] == dropped
    assert not crowd.make_room(newest)
    assert not newest.dropped


def test_thousands_of_new_connections_take_few_looks() -> None:
    crowd = Crowd()
    for deadline in range(1000):
        Client(crowd, deadline)
    Client.looks = 0
    for deadline in range(1000, 4000):
        assert crowd.make_room(Client(crowd, deadline))
    assert Client.looks < 20_000


def test_connections_leave_room_for_other_files() -> None:
    _, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for files, places in ((1000, 936), (80, 40)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            assert Crowd().places == places
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
