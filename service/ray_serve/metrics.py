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


async def export(telemetry: Telemetry, loader: ModelLoader) -> None:
    """Give the metrics of one application to Ray, again and again until cancelled. Called within a replica."""
    gauges: dict[str, Any] = {}

    def give() -> None:
        text, _ = telemetry.scrape("", list(loader.registry))
        for family in text_string_to_metric_families(text.decode()):
            if family.name.startswith(PREFIX):
                for sample in family.samples:
                    if sample.name not in gauges:
                        gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                    gauges[sample.name].set(sample.value, tags=sample.labels)

    while True:
        await asyncio.sleep(INTERVAL)
        telemetry.flush()
        await asyncio.to_thread(give)
