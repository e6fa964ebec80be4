"""Minutes at full rate, sizes and formats mixed: every answer is right, and memory is watched.

Each request's answer is first asked for alone and held against ONNX Runtime; under load every answer must be the same
bytes. Refused requests are part of the mix: error paths leak most.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.benchmarks.serving.load import Answer, Array, Exchange, LoadError, run, send_request
from tests.benchmarks.serving.reference import Reference
from tests.benchmarks.serving.servers import ELBO, OURS, expected, instances, npy, post, serve

SIZES = (1, 1, 1, 2, 7, 16, 64, 1, 200, 1, 700)
"""Rows of the requests of one turn, in each format."""

TURNS = 4
CONNECTIONS = 16
SLICE = 5.0
"""Seconds between looks at the memory; connections are made anew after each."""

SETTLING = 0.2
"""The share of the time that the slope leaves out: pools and arenas fill first."""


def soak(reference: Reference, minutes: float, python: Path) -> str:
    """The figures, in Markdown.

    Raises:
        LoadError: An answer was wrong, or missing.
    """
    with serve(OURS, reference, python) as (port, pid):
        exchanges = _mix(reference, port)
        begin = time.monotonic()
        seconds, sizes = [0.0], [resident(pid)]
        requests = rows = 0
        while (left := 60 * minutes - (time.monotonic() - begin)) > 0:
            load = run(port, exchanges, CONNECTIONS, min(SLICE, max(left, 0.5)))
            requests += len(load.latencies)
            rows += load.rows
            seconds.append(time.monotonic() - begin)
            sizes.append(resident(pid))
    rise, error = slope(np.array(seconds) / 60, np.array(sizes))
    return (
        f"{seconds[-1] / 60:.1f} minutes: {requests:,} requests with {rows:,} rows, of {len(exchanges)} kinds, "
        f"0 wrong answers, 0 errors.\n"
        f"Resident memory, MiB: {sizes[0]:.1f} at first, {sizes[1]:.1f} after {seconds[1]:.0f} s, {max(sizes):.1f} at "
        f"most, {sizes[-1]:.1f} at last.\n"
        f"Slope after the first {SETTLING:.0%} of the time: {1024 * rise:+.1f} ± {1024 * error:.1f} KiB a minute."
    )


def _mix(reference: Reference, port: int) -> list[Exchange]:
    """Requests and the answers that they get alone."""
    generator = np.random.default_rng(1)
    mix = [_refused(b'{"instances": [[1, 2], [3]]}', 422), _refused(b'{"instances": [', 400)]
    for size in SIZES * TURNS:
        rows = reference.rows[generator.integers(0, len(reference.rows), size)]
        mix.extend(_checked(Exchange(form(rows), size), rows, reference, port) for form in (instances(ELBO), npy))
    mix[:2] = [replace(exchange, body=_answer(exchange, port).body) for exchange in mix[:2]]
    return [mix[i] for i in generator.permutation(len(mix))]


def _refused(body: bytes, status: int) -> Exchange:
    return Exchange(post("/elbo", body, "Content-Type: application/json"), 0, status)


def _answer(exchange: Exchange, port: int) -> Answer:
    answer = send_request(port, exchange.request)
    if answer.status != exchange.status:
        raise LoadError(f"status {answer.status} instead of {exchange.status}: {answer.body[:300]!r}")
    return answer


def _checked(exchange: Exchange, rows: Array, reference: Reference, port: int) -> Exchange:
    answer = _answer(exchange, port)
    if OURS.elbo is None or not np.allclose(OURS.elbo(answer), expected(reference, rows), rtol=1e-6):
        raise LoadError(f"not the ELBOs of ONNX Runtime: {answer.body[:300]!r}")
    return replace(exchange, body=answer.body)


def resident(pid: int) -> float:
    """MiB, of the process and its children."""
    kibibytes = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # It has just ended.
            continue
        if pid in (int(fields["Pid"]), int(fields["PPid"])) and "VmRSS" in fields:
            kibibytes += int(fields["VmRSS"].split()[0])
    return kibibytes / 1024


def slope(minutes: Array, sizes: Array) -> tuple[float, float]:
    """Least squares, MiB a minute, and its standard error; NaN while there are too few looks."""
    settled = minutes >= SETTLING * minutes[-1]
    if settled.sum() < 4:
        return float("nan"), float("nan")
    (slope, _), covariance = np.polyfit(minutes[settled], sizes[settled], 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))
