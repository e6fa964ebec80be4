"""Every server compared: how it is started, how it is asked, and how its answer reads.

All run on one core and the load generator on the other; all answer from the same graph, with one thread for it, and are
asked once for their ELBOs before anything is measured.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from tests.benchmarks.serving.ceiling import reference_session
from tests.benchmarks.serving.load import HOST, Answer, Array, Exchange, LoadError, send_request
from tests.benchmarks.serving.reference import NOISE, Reference

SERVER_CORE, LOAD_CORE = 0, 1
PATIENCE = 60.0
"""Seconds that a server may take to start."""

ELBO = "/elbo?score=negative_elbo"
"""The bounds that all servers compute. The default score may need other graphs."""

PEERS = Path(__file__).parent / "peers"
_ROOT = Path(__file__).parents[3]

Request = Callable[[Array], bytes]
"""From images to the bytes of an HTTP request."""


class NotInstalledError(Exception):
    """A peer's packages are not there."""


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        name: In the table.
        command: What starts it, for the reference model, on a port, with the peers' interpreter.
        requests: By format, `json` or `binary`.
        elbo: The ELBOs in an answer; None for a server that computes none.
        package: What a peer's environment must have.
    """

    name: str
    command: Callable[[Reference, int, Path], list[str]]
    requests: dict[str, Request]
    elbo: Callable[[Answer], Array] | None
    package: str | None = None

    def exchanges(self, rows: Array, rows_each: int, form: str) -> list[Exchange]:
        """Requests that send all of `rows`, so many each; where nothing is computed, a request counts as one row."""
        pieces = [rows[start : start + rows_each] for start in range(0, len(rows), rows_each)]
        return [Exchange(self.requests[form](piece), len(piece) if self.elbo else 1) for piece in pieces]


@contextlib.contextmanager
def started(
    command: list[str],
    verify_golden: Callable[[], object],
    cores: AbstractSet[int] = frozenset({SERVER_CORE}),
    patience: float = PATIENCE,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process on its cores, from the first time `verify_golden` does not raise; ended afterwards.

    Raises:
        LoadError: It ended by itself, or did not answer in `patience` seconds; with the end of what it printed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
    with tempfile.TemporaryFile() as printed, on_cores(cores):
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.sched_setaffinity(0, {LOAD_CORE})
        try:
            deadline = time.monotonic() + patience
            while True:
                try:
                    verify_golden()
                    break
                except (OSError, LoadError) as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        printed.seek(0)
                        text = printed.read()[-2000:].decode(errors="replace")
                        raise LoadError(f"did not start ({error}): {text}") from error
                    time.sleep(0.1)
            yield process
        finally:
            _end(process)


@contextlib.contextmanager
def on_cores(cores: AbstractSet[int]) -> Iterator[None]:
    """Keep this process and its children on some cores; on the generator's afterwards."""
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, {LOAD_CORE})


def serve(server: Server, reference: Reference, python: Path) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """The server running on a free port: its port and its process.

    Raises:
        NotInstalledError: It is a peer whose packages are not there.
    """
    if server.package and not _has(python, server.package):
        raise NotInstalledError(server.name)
    return _serve(server, reference, python)


@contextlib.contextmanager
def _serve(server: Server, reference: Reference, python: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    few = reference.rows[:3]

    def verify_golden() -> None:
        for form in server.requests.values():
            answer = send_request(port, form(few))
            if answer.status != 200:
                raise LoadError(f"status {answer.status}: {answer.body[:300]!r}")
            if server.elbo and not np.allclose(server.elbo(answer), expected(reference, few), rtol=1e-6):
                raise LoadError(f"other ELBOs: {answer.body[:300]!r}")

    with started(server.command(reference, port, python), verify_golden) as process:
        yield port, process.pid


def expected(reference: Reference, rows: Array) -> Array:
    """The rows' ELBOs, computed here."""
    session = reference_session(reference.peers)
    answer: Array = session.run(["elbo"], {"x": rows, "noise": np.load(reference.peers / NOISE)})[0]
    return answer


def free_port() -> int:
    """A free port, with the next one free, too, which MLServer takes for gRPC."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((HOST, 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind((HOST, port + 1))
                return port


def post(path: str, body: bytes, *headers: str) -> bytes:
    """An HTTP request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def instances(path: str) -> Request:
    """`{"instances": [...]}`."""

    def request(x: Array) -> bytes:
        body = orjson.dumps({"instances": x}, option=orjson.OPT_SERIALIZE_NUMPY)
        return post(path, body, "Content-Type: application/json")

    return request


def npy_to(path: str) -> Request:
    """One `.npy` array, and the answer as one too."""

    def request(x: Array) -> bytes:
        body = io.BytesIO()
        np.save(body, x)
        return post(path, body.getvalue(), "Content-Type: application/x-npy", "Accept: application/x-npy")

    return request


npy = npy_to(ELBO)


def _v2_json(x: Array) -> bytes:
    tensor = {"name": "x", "shape": x.shape, "datatype": "UINT8", "data": x.ravel()}
    body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return post("/v2/models/elbo/infer", body, "Content-Type: application/json")


def _v2_binary(x: Array) -> bytes:
    tensor = {"name": "x", "shape": x.shape, "datatype": "UINT8", "parameters": {"binary_data_size": x.nbytes}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return post("/v2/models/elbo/infer", head + x.tobytes(), f"Inference-Header-Content-Length: {len(head)}")


def _column(answer: Answer) -> Array:
    if b"application/x-npy" in answer.head:
        table: Array = np.load(io.BytesIO(answer.body))["elbo"]
        return table
    return np.array(orjson.loads(answer.body)["elbo"])


def _v2_tensor(answer: Answer) -> Array:
    # ELBO is the first output, so its bytes are the first after the head; Triton writes NaN, which is not quite JSON.
    document, size = json.JSONDecoder().raw_decode(answer.body.decode("latin-1"))
    output = document["outputs"][0]
    if "data" in output:
        return np.array(output["data"])
    return np.frombuffer(answer.body, np.float64, output["shape"][0], size)


def _has(python: Path, package: str) -> bool:
    if not python.exists():
        return False
    test = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", test], check=False).returncode == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started: by interrupt, so that it may say something first; by force after a while."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


def _ours(reference: Reference, port: int, python: Path) -> list[str]:
    return service_command(reference, port)


def service_command(reference: Reference, port: int, *arguments: str) -> list[str]:
    """The command of the service, with more arguments than those it always has here."""
    return [sys.executable, "-m", "service", *service_arguments(reference, port), *arguments]


def service_arguments(reference: Reference, port: int) -> list[str]:
    """Options of `lowerbound serve`: its defaults, for one core, and as quiet as the others."""
    models = ("--models", str(reference.models))
    return [*models, "--port", str(port), "--device", "cpu", "--engine-threads", "1", "--log-level", "warning"]


def _peer(file: str) -> Callable[[Reference, int, Path], list[str]]:
    return lambda reference, port, python: [str(python), str(PEERS / file), str(reference.peers), str(port)]


def _with_our_python(file: str) -> Callable[[Reference, int, Path], list[str]]:
    return lambda reference, port, python: [sys.executable, str(PEERS / file), str(reference.peers), str(port)]


OURS = Server("Lowerbound", _ours, {"json": instances(ELBO), "binary": npy}, _column)
HTTP = Server("bare uvicorn, constant", _with_our_python("bare_uvicorn.py"), OURS.requests, None)
SERVERS = (
    OURS,
    Server("naive FastAPI", _with_our_python("naive_fastapi.py"), {"json": instances("/elbo")}, _column),
    Server("LitServe", _peer("litserve_api.py"), {"json": instances("/predict")}, _column, "litserve"),
    Server("MLServer", _peer("mlserver_runtime.py"), {"json": _v2_json}, _v2_tensor, "mlserver"),
    Server(
        "Triton",
        _peer("triton_repository.py"),
        {"json": _v2_json, "binary": _v2_binary},
        _v2_tensor,
        "pytriton",
    ),
    HTTP,
)
