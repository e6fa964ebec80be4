"""The exporter: what a replica has counted, given to Ray, whose nodes answer Prometheus for all replicas on them.

`GET /metrics` of a deployment is answered by whichever replica gets it, for itself alone. Ray's gauges carry the
replica as a label, so that their sum is that of all. They are called as the service's metrics with `ray_` before it.
"""

import asyncio
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from ray.serve.metrics import Gauge

from service.inference import ModelLoader
from service.observability.metrics import Telemetry

INTERVAL = 5.0
"""Seconds."""

PREFIX = "lowerbound_"


class Exporter:
    """Gives the metrics of one application to Ray, again and again. Made within a replica.

    Args:
        telemetry: Counts.
        loader: Has the models.
    """

    def __init__(self, telemetry: Telemetry, loader: ModelLoader) -> None:
        self._telemetry = telemetry
        self._loader = loader
        self._gauges: dict[str, Any] = {}

    async def run(self) -> None:
        """Export until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self._telemetry.flush()
            await asyncio.to_thread(self._export)

    def _export(self) -> None:
        text, _ = self._telemetry.scrape("", list(self._loader.registry))
        for family in text_string_to_metric_families(text.decode()):
            if family.name.startswith(PREFIX):
                for sample in family.samples:
                    self._gauge(sample.name, family.documentation, tuple(sample.labels)).set(
                        sample.value, tags=sample.labels
                    )

    def _gauge(self, name: str, documentation: str, labels: tuple[str, ...]) -> Any:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, documentation, labels)
        return self._gauges[name]
