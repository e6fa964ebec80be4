"""HTTP spoken by hand over plain sockets, for what a library would not send, or would hide."""

import socket
from typing import Self

import httpx
import orjson

ROW = [[0] * 8] * 8
BODY = orjson.dumps({"instances": [ROW]})
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """A socket that speaks HTTP by hand."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def until(self, end: bytes) -> bytes:
        while end not in self._received:
            data = self.socket.recv(1 << 16)
            assert data, f"closed after {self._received!r}"
            self._received += data
        found, _, self._received = self._received.partition(end)
        return found

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer, which must say how long it is."""
        status, *lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers.get("content-length", 0))
        while len(self._received) < size:
            self._received += self.socket.recv(1 << 16)
        body, self._received = self._received[:size], self._received[size:]
        return int(status.split()[1]), headers, body

    def closed(self, seconds: float = 30) -> bool:
        """Whether the server closes, with nothing more to say."""
        self.socket.settimeout(seconds)
        try:
            return not self._received and not self.socket.recv(1)
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True


def post(body: bytes, *headers: bytes, path: bytes = b"/elbo") -> bytes:
    head = [
        b"POST %b HTTP/1.1" % path,
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
        b"",
        b"",
    ]
    return b"\r\n".join(head) + body


def work(refine: int, rows: int = 1) -> bytes:
    """A request whose steps of refinement take the better part of a millisecond each."""
    return post(orjson.dumps({"instances": [ROW] * rows}), path=b"/elbo?num_draws=8&refine=%d" % refine)


def asked(port: int, request: bytes) -> int:
    with Client(port) as client:
        client.send(request)
        return client.answer()[0]


def port_of(client: httpx.Client) -> int:
    port = client.base_url.port
    assert port is not None
    return port
