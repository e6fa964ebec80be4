"""The metrics of all processes at one moment, as text for Prometheus.

Several processes write files in a common folder, which are added up here. Files of ended processes still count, except
for requests that were in flight.
"""

import os
import platform
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import onnxruntime as ort
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.inference import Model
from service.scoring import FALSE_ALARMS

_WITHOUT_SIGN = {"lowerbound_elbo_nats_sum", "lowerbound_elbo_nats_count"}
"""OpenMetrics forbids a sum beside negative buckets, and a count without a sum."""


def render(accept: str, own: Iterable[Metric], folder: str | None, models: Iterable[Model]) -> tuple[bytes, str]:
    """All metrics in Prometheus's text format, or in OpenMetrics's, and the media type.

    Args:
        accept: The header `Accept`, which chooses the format.
        own: This process's metrics; families of the same name are made one.
        folder: The processes' common folder, where there are several.
        models: The models served; series of others are left out.
    """
    counted, pids = _of_all(own, folder)
    write, media_type = choose_encoder(accept)
    return write(_Snapshot([*_kept(counted, models), *_known(models), *_processes(pids)])), media_type


def totals(own: Iterable[Metric], folder: str | None) -> dict[tuple[str, ...], float]:
    """The values of all processes' metrics, by name and values of labels, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in _of_all(own, folder)[0]
        for sample in family.samples
    }


def _of_all(own: Iterable[Metric], folder: str | None) -> tuple[Iterable[Metric], set[int]]:
    """The metrics of all processes, added up, and the ids of the processes that live."""
    if folder is None:
        return own, {os.getpid()}
    every = {int(path.stem.rpartition("_")[2]) for path in Path(folder).glob("*.db")}
    pids = set(filter(_lives, every))
    for pid in every - pids:
        mark_process_dead(pid, folder)
    return MultiProcessCollector(None, folder).collect(), pids


class _Snapshot(Collector):
    """Metrics that are at hand."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _kept(families: Iterable[Metric], models: Iterable[Model]) -> Iterable[Metric]:
    """The metrics that have been counted."""
    served = {(model.manifest.name, str(model.manifest.version)) for model in models}
    merged: dict[str, Metric] = {}
    for family in families:
        into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        into.samples += [
            sample
            for sample in family.samples
            if not sample.name.endswith("_created")
            and sample.name not in _WITHOUT_SIGN
            and ("version" not in sample.labels or (sample.labels["model"], sample.labels["version"]) in served)
        ]
    return merged.values()


def _known(models: Iterable[Model]) -> Iterable[Metric]:
    """What need not be counted to be known."""
    runtime = InfoMetricFamily("lowerbound_runtime", "What the service runs on.")
    runtime.add_metric((), {"python": platform.python_version(), "onnxruntime": ort.__version__})
    yield runtime
    served = InfoMetricFamily("lowerbound_model", "The models served.", labels=("model", "version"))
    for model in models:
        manifest = model.manifest
        about = {
            "bundle": model.bundle.digest,
            "device": model.engine.device,
            "likelihood": manifest.likelihood,
            "prior": manifest.prior,
            "score": manifest.default_score,
        }
        served.add_metric((manifest.name, str(manifest.version)), about)
    yield served
    yield GaugeMetricFamily(
        "lowerbound_drift_alarm_threshold",
        "What lowerbound_drift_martingale reaches with at most the probability 1 over this where nothing drifts.",
        1 / FALSE_ALARMS,
    )


def _processes(pids: Iterable[int]) -> Iterable[Metric]:
    """Processor, memory and files of the processes that serve, under their customary names."""
    merged: dict[str, Metric] = {}
    for pid in sorted(pids):
        for family in ProcessCollector(pid=partial(str, pid), registry=None).collect():
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {"pid": str(pid)}, sample.value)
    return merged.values()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
