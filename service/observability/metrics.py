"""Telemetry: what the service counts and times, as Prometheus metrics.

On a request's way events are only put into lists. Ten times a second they are added to the metrics, all at once. To add
each alone would cost a request much more.

With several processes each keeps its metrics in files of a common folder: prometheus_client's multiprocess mode.
"""

import asyncio
import logging
import math
import os
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.bundle import Array, Bundle
from service.inference import Model, Observer, Report
from service.observability.multiprocess import FOLDER, has_room
from service.observability.prometheus import render, totals
from service.scoring import FALSE_ALARMS, Martingale

INTERVAL = 0.1
"""Seconds that an event waits at most before it counts."""

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = tuple(2**i for i in range(13))
P_VALUES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
ELBO_QUANTILES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
"""The buckets of the ELBOs lie between these quantiles of the held-out rows' own."""

METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}

Labels = tuple[str, str, str]
"""Method, route and model of a request. Empty: a route that there is not, and the model of a route without one."""

logger = logging.getLogger("service")


class _Histogram(Histogram):
    """A histogram that can take many values at the price of one."""

    def observe_all(self, amounts: Sequence[float] | npt.NDArray[np.float64]) -> None:
        self._sum.inc(float(np.sum(amounts)))
        counts = np.bincount(np.searchsorted(self._upper_bounds, amounts))
        for i in np.flatnonzero(counts):
            self._buckets[i].inc(int(counts[i]))


class Telemetry:
    """The metrics of one application, whose requests are divided among so many processes."""

    def __init__(self, workers: int) -> None:
        self._folder = os.environ.get(FOLDER)
        self._full = False
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._ended: list[tuple[Labels, int, float]] = []
        self._rejected: Tally[str] = Tally()
        self._watched: dict[tuple[str, str], ModelMetrics] = {}
        self._told: set[ModelMetrics] = set()
        self._names: set[str] = set()
        self._registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(_Histogram, buckets=SECONDS, registry=registry)
        request, model, graph = ("method", "route", "model"), ("model", "version"), ("model", "version", "graph")

        self._requests = counter("lowerbound_http_requests_total", "Requests answered.", (*request, "status"))
        self._durations = seconds(
            "lowerbound_http_request_duration_seconds", "Time from a request's head to the end of its answer.", request
        )
        self._being_answered = gauge(
            "lowerbound_http_requests_in_flight", "Requests being answered.", multiprocess_mode="livesum"
        )
        self._rejections = counter("lowerbound_rejected_total", "Requests not done, by reason.", ["reason"])
        self.waits = seconds(
            "lowerbound_queue_seconds", "Time from a work's submission to the start of its first batch.", graph
        )
        self.rows = _Histogram(
            "lowerbound_batch_rows", "Rows computed in one engine call.", graph, buckets=ROWS, registry=registry
        )
        self.seconds = seconds("lowerbound_compute_seconds", "Time of one engine call.", graph)
        self.row_draws = counter("lowerbound_row_draws_total", "Rows x draws computed.", graph)
        self.errors = counter("lowerbound_engine_errors_total", "Engine calls that failed.", graph)
        self.last = gauge(
            "lowerbound_last_batch_timestamp_seconds",
            "When the last engine call was counted, in seconds since 1970.",
            graph,
            multiprocess_mode="max",
        )
        self.ready = gauge(
            "lowerbound_engine_ready",
            "Whether the engine answers its golden rows as it should: 1, or 0 until another is in its place.",
            model,
            multiprocess_mode="livemin",
        )
        self.replaced = counter("lowerbound_engines_replaced_total", "Engines that were lost, and replaced.", model)
        self.p_values = _Histogram(
            "lowerbound_p_value",
            "P-values of the rows scored as the model was calibrated.",
            model,
            buckets=P_VALUES,
            registry=registry,
        )
        self.scored_rows = counter("lowerbound_drift_rows_total", "Rows that the drift martingale has seen.", model)
        self.martingale = gauge(
            "lowerbound_drift_martingale",
            "Evidence that rows are not as the held-out rows were: a martingale that starts at 1.",
            model,
            multiprocess_mode="livesum",
        )
        self.largest_martingale = gauge(
            "lowerbound_drift_martingale_max",
            "The largest that one process's share of lowerbound_drift_martingale has been.",
            model,
            multiprocess_mode="livemax",
        )
        self.workers = workers

    def watch(self, bundle: Bundle) -> "ModelMetrics":
        """What a model reports to."""
        watch = ModelMetrics(self, bundle)
        self._watched[watch.labels] = watch
        self._names.add(bundle.manifest.name)
        return watch

    def labels(self, method: str, route: str, model: str) -> Labels:
        """The labels of a request; methods and models that clients invent have one label together."""
        return (method if method in METHODS else "other", route, model if model in self._names else "")

    def began(self) -> float:
        """Count a request as being answered; returns the time for `ended`."""
        self._in_flight += 1
        if self._timer is None:
            self.flush_soon()
        return time.perf_counter()

    def ended(self, labels: Labels, status: int, began: float) -> float:
        """Count a request as answered; returns the seconds that it took."""
        seconds = time.perf_counter() - began
        self._in_flight -= 1
        self._ended.append((labels, status, seconds))
        if self._timer is None:
            self.flush_soon()
        return seconds

    def rejected(self, reason: str) -> None:
        """Count a request that was not done."""
        self._rejected[reason] += 1

    def flush_soon(self, *told: "ModelMetrics") -> None:
        """See to it that what has happened, and what these were told, counts within `INTERVAL`."""
        self._told.update(told)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self.flush)

    def flush(self) -> None:
        """Add to the metrics what has happened."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.can_write():
            for watch in self._told:
                watch.forget()
            for lost in (self._ended, self._rejected, self._told):
                lost.clear()
            return
        durations: dict[tuple[Labels, int], list[float]] = defaultdict(list)
        for labels, status, seconds in self._ended:
            durations[labels, status].append(seconds)
        self._ended.clear()
        for (labels, status), seconds_each in durations.items():
            self._requests.labels(*labels, status).inc(len(seconds_each))
            self._durations.labels(*labels).observe_all(seconds_each)
        for reason, count in self._rejected.items():
            self._rejections.labels(reason).inc(count)
        self._rejected.clear()
        self._being_answered.set(self._in_flight)
        for watch in self._told:
            watch.flush()
        self._told.clear()

    def can_write(self) -> bool:
        """Whether metrics can be written; if not, the log says so once, and they are lost."""
        if self._folder is None or has_room(self._folder):
            return True
        if not self._full:
            self._full = True
            logger.warning("%s has no room left: metrics are lost from now on", self._folder)
        return False

    def scrape(self, accept: str, models: Iterable[Model]) -> tuple[bytes, str]:
        """See `prometheus.render`: everything flushed by now, of all processes. May be called in any thread."""
        elbos = [family for watch in list(self._watched.values()) for family in watch.elbos.collect()]
        return render(accept, [*self._registry.collect(), *elbos], self._folder, models)

    def totals(self) -> dict[tuple[str, ...], float]:
        """See `prometheus.totals`, as for `scrape`."""
        return totals(self._registry.collect(), self._folder)


class ModelMetrics(Observer):
    """The metrics of one model, and the drift martingale of its scores."""

    def __init__(self, telemetry: Telemetry, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.labels = (manifest.name, str(manifest.version))
        held_out = bundle.calibration[manifest.default_score]
        elbos = -bundle.calibration.get("negative_elbo", held_out)
        self.elbos = _Histogram(
            "lowerbound_elbo_nats",
            "ELBOs of the rows scored as the model was calibrated.",
            ("model", "version"),
            buckets=[float(f"{bound:.6g}") for bound in np.unique(np.quantile(elbos, ELBO_QUANTILES))],
            registry=None,
        )
        self._telemetry = telemetry
        self._martingale = Martingale(held_out)
        self._reports: list[Report] = []
        self._scored: list[tuple[Array, Array, Array]] = []
        self._warned = False
        self._replaced = 0
        self._show()

    def computed(self, report: Report) -> None:
        """Count an engine call."""
        self._reports.append(report)
        self._telemetry.flush_soon(self)

    def scored(self, elbo: Array, score: Array, p_value: Array) -> None:
        """Count rows that were scored as the held-out rows were; see `Observer.scored`."""
        self._scored.append((elbo, score, p_value))
        self._telemetry.flush_soon(self)

    def watched(self, ready: bool, replaced: int) -> None:
        """Show whether the engine is ready, and count replaced engines."""
        if not self._telemetry.can_write():
            return
        self._telemetry.ready.labels(*self.labels).set(ready)
        self._telemetry.replaced.labels(*self.labels).inc(replaced - self._replaced)
        self._replaced = replaced

    def flush(self) -> None:
        """Add to the metrics what has been reported."""
        telemetry = self._telemetry
        if self._reports:
            by_graph: dict[str, list[Report]] = defaultdict(list)
            for report in self._reports:
                by_graph[report.graph].append(report)
            self._reports.clear()
            for graph, reports in by_graph.items():
                labels = (*self.labels, graph)
                telemetry.waits.labels(*labels).observe_all([wait for report in reports for wait in report.waits])
                telemetry.rows.labels(*labels).observe_all([report.rows for report in reports])
                telemetry.seconds.labels(*labels).observe_all([report.seconds for report in reports])
                telemetry.row_draws.labels(*labels).inc(sum(r.rows * r.draws for r in reports if not r.failed))
                telemetry.errors.labels(*labels).inc(sum(report.failed for report in reports))
                telemetry.last.labels(*labels).set_to_current_time()
        if self._scored:
            elbos, scores, p_values = map(np.concatenate, zip(*self._scored, strict=True))
            self._scored.clear()
            self.elbos.labels(*self.labels).observe_all(elbos[np.isfinite(elbos)])
            telemetry.p_values.labels(*self.labels).observe_all(p_values[~np.isnan(p_values)])
            telemetry.scored_rows.labels(*self.labels).inc(len(scores))
            self._martingale.update(np.where(np.isnan(scores), np.inf, scores))
            self._show()

    def forget(self) -> None:
        """Drop what has been reported."""
        self._reports.clear()
        self._scored.clear()

    def _show(self) -> None:
        """Show the martingale, divided by the number of processes: the sum of all is a martingale that starts at 1."""
        if not self._telemetry.can_write():
            return
        share = -math.log(self._telemetry.workers)
        largest = _exp(self._martingale.log_maximum + share)
        self._telemetry.martingale.labels(*self.labels).set(_exp(self._martingale.log_capital + share))
        self._telemetry.largest_martingale.labels(*self.labels).set(largest)
        if largest >= 1 / FALSE_ALARMS and not self._warned:
            self._warned = True
            logger.warning(
                "%s %s: rows are not as the held-out rows were (drift martingale %.3g after %d rows; "
                "where nothing drifts, it gets there with probability %.2g)",
                *self.labels,
                largest,
                self._martingale.rows,
                1 / largest,
            )


def _exp(log: float) -> float:
    return math.exp(min(log, 700))  # Just below what floating point can hold.
