"""How long single rows wait while another client floods the service with the largest that it may send.

    .venv/test/bin/python -m tests.benchmarks.floods        # about two minutes

One client asks for the score of one row, again and again, first alone and then beside each flood. Four connections of
another process flood the service, each with one request after the other. Linux, two cores or more.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles
from threading import Thread

import numpy as np

from tests.conftest import run_server
from tests.service.attacks import JSON, MEBIBYTE, NPY
from tests.service.http_client import npy
from tests.service.load import ONE

CONNECTIONS = 4
MOST = 262_144
"""Draws, rows × `num_draws`, that one request may ask for."""

ARRAYS = 2**20
"""Arrays that are read of a body in JSON."""


def _pictures(rows: int) -> bytes:
    return npy(np.zeros((rows, 8, 8), np.uint8))


def _text(rows: int) -> bytes:
    return b'{"instances": [' + b",".join([json.dumps(ONE).encode()] * rows) + b"]}"


FLOODS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "64 rows × 4,096 draws": ("/elbo?num_draws=4096", NPY, lambda: _pictures(64)),
    "40 rows × 64 draws × 100 refinements": ("/elbo?num_draws=64&refine=100", NPY, lambda: _pictures(40)),
    "262,144 rows in .npy": ("/elbo?num_draws=1", NPY, lambda: _pictures(MOST)),
    "116,508 rows in JSON": ("/elbo?num_draws=1", JSON, lambda: _text(ARRAYS // 9)),
    "64 MiB in .npy, refused": ("/elbo?num_draws=1", NPY, lambda: _pictures(MEBIBYTE - 64)),
    "60 MiB in JSON, refused": ("/elbo?num_draws=1", JSON, lambda: _text(300_000)),
    "262,144 samples": ("/sample?n=262144", "", bytes),
}
"""By what they are: path, media type, and what makes the body; without one, it is a GET."""


def _flood(port: int, name: str, end: Event, answers: "multiprocessing.SimpleQueue[Counter[int]]") -> None:
    """Send one request after the other on each connection, until told to end."""
    path, media_type, make = FLOODS[name]
    body, seen = make(), Counter[int]()

    def send() -> None:
        while not end.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                headers = {"Content-Type": media_type} if body else {}
                connection.request("POST" if body else "GET", path, body or None, headers)
                answer = connection.getresponse()
                answer.read()
                seen[answer.status] += 1
                if answer.status != 200:
                    time.sleep(0.05)  # Less than a client would wait that read `Retry-After`.
            except OSError:
                seen[0] += 1
            finally:
                connection.close()

    threads = [Thread(target=send) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(seen)


def _ask(port: int, seconds: float) -> tuple[list[float], Counter[int]]:
    """Seconds of each request for a single row, and its statuses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body, times, seen = json.dumps({"instances": [ONE]}), [], Counter[int]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        connection.request("POST", "/elbo", body, {"Content-Type": JSON})
        answer = connection.getresponse()
        answer.read()
        times.append(time.monotonic() - began)
        seen[answer.status] += 1
    connection.close()
    return times, seen


def _row(name: str, times: list[float], seen: Counter[int], flood: Counter[int], alone: float | None) -> float:
    last = quantiles(times, n=100)[-1]
    others = ", ".join(f"{status or 'broken'}: {count}" for status, count in sorted(seen.items()) if status != 200)
    sent = ", ".join(f"{status or 'broken'}: {count}" for status, count in sorted(flood.items()))
    ratio = f"{last / alone:.1f}" if alone else ""
    figures = f"{1000 * median(times):.2f} | {1000 * last:.2f} | {ratio} | {1000 * max(times):.0f}"
    print(f"| {name} | {len(times):,} | {others or 'none'} | {figures} | {sent} |", flush=True)
    return last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each flood")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    print("| flood | single rows | refused | median, ms | 99 %, ms | times alone | longest, ms | answers to it |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder, run_server("--device", "cpu", log=Path(folder) / "log") as client:
        port = client.base_url.port or 0
        _ask(port, 2)
        alone = _row("none", *_ask(port, given.seconds), Counter(), None)
        for name in FLOODS:
            end, answers = context.Event(), context.SimpleQueue()
            process = context.Process(target=_flood, args=(port, name, end, answers))
            process.start()
            time.sleep(3)  # The flood is made, and begins.
            times, seen = _ask(port, given.seconds)
            end.set()
            _row(name, times, seen, answers.get(), alone)
            process.join()
            time.sleep(2)


if __name__ == "__main__":
    main()
