"""Room for a new connection where there are too many."""

import math
import resource
from operator import itemgetter
from typing import Protocol, cast

from uvicorn.server import ServerState

IDLE = 620.0
"""Seconds beyond its deadline that an idle connection stays open, unless another client needs its place. Proxies use
connections again for up to ten minutes, and answer 502 if the service closes one as the next request comes."""

OTHER_FILES = 64
"""Open files that are no connections, or half of all that may be open where these are few."""

UNWANTED = 2**27
"""Bytes a second that are read of what no request wants, as the rest of a refused body, of all connections together."""


class Member(Protocol):
    """A connection."""

    @property
    def deadline(self) -> float:
        """When it may be closed if its client does nothing more; infinite while a request is answered."""

    def drop(self) -> None:
        """Close it at once."""


class Crowd(ServerState):
    """The connections of a server.

    All are sorted once for as many as are closed: thousands of new ones may come at once.

    Attributes:
        places: How many connections the limit of open files allows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_deadline: list[tuple[float, Member]] = []
        self._next_read = 0.0
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.places = math.inf if files == resource.RLIM_INFINITY else max(files - OTHER_FILES, files // 2)

    def next_read(self, now: float, size: int) -> float:
        """When a connection may read on that has just read so many bytes that no request wants."""
        self._next_read = max(self._next_read, now) + size / UNWANTED
        return self._next_read

    def make_room(self, newest: Member) -> bool:
        """Close the connection that is closest to its deadline, if one has a deadline."""
        members = cast("set[Member]", self.connections)
        for _ in range(2):
            while self._by_deadline:
                deadline, member = self._by_deadline.pop()
                if member in members and member.deadline == deadline:
                    member.drop()
                    return True
            found = [(member.deadline, member) for member in members if member is not newest]
            self._by_deadline = sorted((each for each in found if each[0] < math.inf), key=itemgetter(0), reverse=True)
        return False
