"""A real S3 server on this machine, and what may befall a connection to it."""

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
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
        """What leads AWS's libraries here, or to what stands in between."""
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


class Proxy:
    """Stands between clients and a server, and spoils some answers.

    Attributes:
        port: Where it listens.
        spoilt: What is in a request whose answer is spoilt; None: nothing is.
        most: Bytes that a spoilt answer brings.
        cuts: Whether the connection is closed then, or only brings nothing more.
    """

    def __init__(self, server: int) -> None:
        self.port = 0
        self.spoilt: bytes | None = None
        self.most = 0
        self.cuts = True
        self._server = server
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()))

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _listen(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        listener = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        self._listening.set()
        await self._ended.wait()
        listener.close()

    async def _pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server)
        left: float = math.inf

        async def ask() -> None:
            nonlocal left
            while data := await client.read(2**16):
                if self.spoilt is not None and self.spoilt in data:
                    left = self.most
                to_server.write(data)

        async def answer() -> None:
            nonlocal left
            while data := await server.read(2**12):
                left -= len(data)
                if left < 0:
                    if not self.cuts:
                        await self._ended.wait()
                    break
                to_client.write(data)

        ways = {asyncio.create_task(way()) for way in (ask, answer)}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_client.close()
            to_server.close()
            await asyncio.gather(to_client.wait_closed(), to_server.wait_closed(), return_exceptions=True)


def kill(process: subprocess.Popen[Any]) -> None:
    """Without a warning."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
