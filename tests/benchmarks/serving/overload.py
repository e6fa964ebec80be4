"""Overload: the fate of the requests, and of their clients.

Requests go out on a clock, whether or not earlier ones have been answered (open loop), over a pool of connections. The
capacity is measured just before each load, with enough connections to keep the service busy. Every accepted answer must
be the bytes that the same request gets alone, and every refusal must say when to come back.
"""

import select
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.benchmarks.serving.load import Answer, Connection, Exchange, LoadError, run, send_request
from tests.benchmarks.serving.memory import resident
from tests.benchmarks.serving.reference import Reference
from tests.benchmarks.serving.servers import ELBO, OURS, npy_to, serve

ROWS, DRAWS = 64, 16
FACTORS = (1, 2, 10)
"""Offered load, of the capacity."""

CONNECTIONS = 900
"""At most under way at once: more than the service lets wait, and as many as it serves."""

IDLE = 2.0
"""Seconds after which a client opens a new connection, because the service closes idle ones."""

ACCEPTED, REFUSED = 200, 429

COLUMNS = (
    *("offered", "capacity", "a second", "accepted", "refused", "not sent", "accepted, ms: median, 99 %, most"),
    *("refused, ms: median, 99 %", "Retry-After, s", "memory, MiB"),
)


@dataclass
class _Outcome:
    """What became of the requests offered at one rate; times in seconds.

    Attributes:
        offered: How many there were, sent or not.
        unsent: Those for which no connection was left.
        in_time: Answers that came while requests were still being sent, by status.
        latencies: Of all answers, by status.
        retry_after: What the refused were told.
    """

    offered: int = 0
    unsent: int = 0
    in_time: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=lambda: {ACCEPTED: [], REFUSED: []})
    retry_after: list[int] = field(default_factory=list)


def overload(reference: Reference, seconds: float, python: Path) -> str:
    """The table, in Markdown.

    Raises:
        LoadError: An answer was wrong or missing, or a refusal did not say when to come back.
    """
    with serve(OURS, reference, python) as (port, pid):
        request = npy_to(f"{ELBO}&num_draws={DRAWS}")(reference.rows[:ROWS])
        exchange = Exchange(request, ROWS, body=send_request(port, request).body)
        lines = [
            f"Requests of {ROWS} rows x {DRAWS} draws, a second; {seconds:.0f} seconds each.\n",
            "| " + " | ".join(COLUMNS) + " |",
            "|---|" + "---:|" * (len(COLUMNS) - 1),
        ]
        for factor in FACTORS:
            capacity = run(port, [exchange], 8, seconds / 4, 1.0).requests_per_second
            outcome = _offer(port, exchange, factor * capacity, seconds)
            lines.append(_row(factor, capacity, seconds, outcome, resident(pid)))
    return "\n".join(lines)


def _offer(port: int, exchange: Exchange, rate: float, seconds: float) -> _Outcome:
    """Send at this rate for so long, and wait for what is still under way."""
    outcome = _Outcome()
    free: list[tuple[float, Connection]] = []  # Since when; the last one used is the first to be used again.
    busy: dict[int, Connection] = {}
    with select.epoll() as poll:

        def send() -> None:
            if free and time.perf_counter() - free[-1][0] > IDLE:
                _close(free)
            connection = free.pop()[1] if free else Connection(port)
            connection.send(exchange)
            busy[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)

        begin = time.perf_counter()
        while (now := time.perf_counter()) < begin + seconds or busy:
            due = int(min(now - begin, seconds) * rate)
            while outcome.offered < due:
                outcome.offered += 1
                if len(busy) < CONNECTIONS:
                    send()
                else:
                    outcome.unsent += 1
            if now > begin + 2 * seconds + 60:
                raise LoadError(f"{len(busy)} requests were never answered")
            for number, _ in poll.poll(0.001):
                if answer := busy[number].receive():
                    connection = busy.pop(number)
                    poll.unregister(number)
                    now = time.perf_counter()
                    _take(outcome, exchange, answer, now - connection.started)
                    outcome.in_time[answer.status] += now < begin + seconds
                    free.append((now, connection))
    _close(free)
    return outcome


def _close(free: list[tuple[float, Connection]]) -> None:
    for _, connection in free:
        connection.socket.close()
    free.clear()


def _take(outcome: _Outcome, exchange: Exchange, answer: Answer, latency: float) -> None:
    if answer.status not in outcome.latencies:
        raise LoadError(f"status {answer.status}: {answer.body[:300]!r}")
    if answer.status == ACCEPTED and answer.body != exchange.body:
        raise LoadError(f"not the answer that was given before: {answer.body[:300]!r}")
    if answer.status == REFUSED:
        headers = dict(line.split(b": ", 1) for line in answer.head.lower().split(b"\r\n")[1:])
        outcome.retry_after.append(int(headers[b"retry-after"]))
    outcome.latencies[answer.status].append(latency)


def _row(factor: int, capacity: float, seconds: float, outcome: _Outcome, memory: float) -> str:
    def quantiles(status: int, *shares: float) -> str:
        values = outcome.latencies[status]
        return ", ".join(f"{1e3 * np.quantile(values, share):,.0f}" for share in shares) if values else ""

    numbers = (outcome.offered, outcome.in_time[ACCEPTED], outcome.in_time[REFUSED])
    cells = (
        f"{factor} x",
        f"{capacity:,.0f}",
        *(f"{number / seconds:,.0f}" for number in numbers),
        f"{outcome.unsent:,}",
        quantiles(ACCEPTED, 0.5, 0.99, 1),
        quantiles(REFUSED, 0.5, 0.99),
        f"{min(outcome.retry_after)} to {max(outcome.retry_after)}" if outcome.retry_after else "",
        f"{memory:.0f}",
    )
    return "| " + " | ".join(cells) + " |"
