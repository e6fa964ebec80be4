"""More than the service can do: what becomes of the requests, and of those who send them.

Requests go out on a clock, whether or not earlier ones have been answered (open loop), over a pool of connections. The
capacity is measured first, with enough connections to keep the service busy. Every accepted answer must be the bytes
that the same request gets alone, and every refusal must say when to come back.
"""

import select
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.benchmarks.serving.load import Answer, Connection, Exchange, LoadError, ask, run
from tests.benchmarks.serving.memory import resident
from tests.benchmarks.serving.reference import Reference
from tests.benchmarks.serving.servers import ELBO, OURS, npy_to, serve

ROWS, DRAWS = 64, 16
FACTORS = (1, 2, 10)
"""Offered load, of the capacity."""

CONNECTIONS = 1500
"""At most under way at once: more than the service lets wait."""

ACCEPTED, REFUSED = 200, 429

COLUMNS = (
    *("offered", "a second", "accepted", "refused", "not sent", "accepted, ms: median, 99 %, most"),
    *("refused, ms: median, 99 %", "Retry-After, s", "memory, MiB"),
)


@dataclass
class _Outcome:
    """What became of the requests offered at one rate; times in seconds."""

    seconds: float = 0.0
    offered: int = 0
    unsent: int = 0
    latencies: dict[int, list[float]] = field(default_factory=lambda: {ACCEPTED: [], REFUSED: []})
    retry_after: list[int] = field(default_factory=list)


def overload(reference: Reference, seconds: float, python: Path) -> str:
    """The table, in Markdown.

    Raises:
        LoadError: An answer was wrong or missing, or a refusal did not say when to come back.
    """
    with serve(OURS, reference, python) as (port, pid):
        request = npy_to(f"{ELBO}&num_draws={DRAWS}")(reference.rows[:ROWS])
        exchange = Exchange(request, ROWS, body=ask(port, request).body)
        capacity = run(port, [exchange], 8, seconds / 4, 1.0).requests_per_second
        lines = [
            f"Requests of {ROWS} rows x {DRAWS} draws; capacity {capacity:,.0f} a second.\n",
            "| " + " | ".join(COLUMNS) + " |",
            "|---|" + "---:|" * (len(COLUMNS) - 1),
        ]
        for factor in FACTORS:
            outcome = _offer(port, exchange, factor * capacity, seconds)
            lines.append(_row(factor, outcome, resident(pid)))
    return "\n".join(lines)


def _offer(port: int, exchange: Exchange, rate: float, seconds: float) -> _Outcome:
    """Send at this rate for so long, and wait for what is still under way."""
    outcome = _Outcome()
    connections = {c.socket.fileno(): c for c in (Connection(port) for _ in range(CONNECTIONS))}
    free = deque(connections.values())
    with select.epoll() as poll:
        for number in connections:
            poll.register(number, select.EPOLLIN)
        begin = time.perf_counter()
        while (now := time.perf_counter()) < begin + seconds or len(free) < CONNECTIONS:
            due = int(min(now - begin, seconds) * rate)
            while outcome.offered < due:
                outcome.offered += 1
                if free:
                    free.popleft().send(exchange)
                else:
                    outcome.unsent += 1
            if now > begin + 2 * seconds + 60:
                raise LoadError(f"{CONNECTIONS - len(free)} requests were never answered")
            for number, _ in poll.poll(0.001):
                if answer := connections[number].receive():
                    _take(outcome, exchange, answer, time.perf_counter() - connections[number].started)
                    free.append(connections[number])
        outcome.seconds = time.perf_counter() - begin
    for connection in connections.values():
        connection.socket.close()
    return outcome


def _take(outcome: _Outcome, exchange: Exchange, answer: Answer, latency: float) -> None:
    if answer.status not in outcome.latencies:
        raise LoadError(f"status {answer.status}: {answer.body[:300]!r}")
    if answer.status == ACCEPTED and answer.body != exchange.body:
        raise LoadError(f"not the answer that was given before: {answer.body[:300]!r}")
    if answer.status == REFUSED:
        headers = dict(line.split(b": ", 1) for line in answer.head.lower().split(b"\r\n")[1:])
        outcome.retry_after.append(int(headers[b"retry-after"]))
    outcome.latencies[answer.status].append(latency)


def _row(factor: int, outcome: _Outcome, memory: float) -> str:
    def quantiles(status: int, *shares: float) -> str:
        values = outcome.latencies[status]
        return ", ".join(f"{1e3 * np.quantile(values, share):,.0f}" for share in shares) if values else ""

    rates = (outcome.offered, len(outcome.latencies[ACCEPTED]), len(outcome.latencies[REFUSED]))
    cells = (
        f"{factor} x",
        *(f"{number / outcome.seconds:,.0f}" for number in rates),
        f"{outcome.unsent:,}",
        quantiles(ACCEPTED, 0.5, 0.99, 1),
        quantiles(REFUSED, 0.5, 0.99),
        f"{min(outcome.retry_after)} to {max(outcome.retry_after)}" if outcome.retry_after else "",
        f"{memory:.0f}",
    )
    return "| " + " | ".join(cells) + " |"
