"""A real S3 server on this machine, and what may befall a connection to it."""

import math
import os
import selectors
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import boto3  # type: ignore[import-untyped]
import httpx
from botocore.config import Config  # type: ignore[import-untyped]

from tests.conftest import wait_until

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class S3:
    """moto's server, in a process of its own, at one address even after it has been away. It forgets all by that."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        here = f"http://127.0.0.1:{self.port}/moto-api/"
        wait_until(lambda: httpx.get(here).status_code, 60, ignoring=httpx.TransportError)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Variables that lead AWS's libraries here, or to a proxy in between."""
        return CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}"}

    def bucket(self, name: str | None = None) -> "Bucket":
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
            config=Config(retries={"max_attempts": 1}),
        )
        bucket = Bucket(client, name or f"bucket-{uuid.uuid4()}")
        client.create_bucket(Bucket=bucket.name)
        return bucket


class Bucket:
    """A bucket, by other code than what is tested."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self.name = name
        self.url = f"s3://{name}/models"

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def keys(self) -> list[str]:
        """In the order in which they were last written, where that took seconds."""
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [entry["Key"] for entry in sorted(found, key=lambda entry: entry["LastModified"])]

    def upload(self, folder: Path, prefix: str, last: str = "manifest.json") -> None:
        """A folder's files, the named one last."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == last):
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def remove(self, prefix: str) -> None:
        for key in self.keys():
            if key.startswith(prefix):
                self._client.delete_object(Bucket=self.name, Key=key)


class Proxy(socketserver.ThreadingTCPServer):
    """Stands between clients and a server, and spoils some answers.

    Attributes:
        port: Where it listens.
        spoilt: What is in a request whose answer is spoilt; None: nothing is.
        most: Bytes that a spoilt answer brings.
        cuts: Whether the connection is closed then, or only brings nothing more.
    """

    def __init__(self, server: int) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.port = int(self.server_address[1])
        self.spoilt: bytes | None = None
        self.most = 0
        self.cuts = True
        self.behind = ("127.0.0.1", server)
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.shutdown()
        self._thread.join()
        self.server_close()  # Waits for the connections.


class Connection(socketserver.BaseRequestHandler):
    """Passes on what either side says, until one of them ends it, the answer is spoilt, or the proxy ends."""

    server: Proxy

    def handle(self) -> None:
        with (
            suppress(ConnectionError),
            socket.create_connection(self.server.behind) as behind,
            selectors.DefaultSelector() as either,
        ):
            either.register(self.request, selectors.EVENT_READ)
            either.register(behind, selectors.EVENT_READ)
            left: float = math.inf
            while not self.server.ended.is_set():
                for key, _ in either.select(0.1):
                    data = key.fileobj.recv(2**12)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is self.request:
                        if self.server.spoilt is not None and self.server.spoilt in data:
                            left = self.server.most
                        behind.sendall(data)
                        continue
                    left -= len(data)
                    if left < 0:
                        if not self.server.cuts:
                            self.server.ended.wait()
                        return
                    self.request.sendall(data)


def kill(process: subprocess.Popen[Any]) -> None:
    """Without a warning."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
