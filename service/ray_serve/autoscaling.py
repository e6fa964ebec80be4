"""The scaling: how many replicas there should be, from the rows that wait and are computed.

Requests, which Ray Serve counts by itself, are of one row or of ten thousand. Ray Serve sends this module to its
controller, so it imports nothing else of the service.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

ROW_DRAWS = "row_draws"


class RowDraws:
    """An autoscaling policy: so many replicas that each has about as much to do as it should.

    Ray Serve averages what replicas report, keeps the number between `min_replicas` and `max_replicas`, and waits
    `upscale_delay_s` or `downscale_delay_s` before it follows.

    Args:
        per_replica: Rows × draws that a replica should have under way, queued ones among them.
    """

    def __init__(self, per_replica: float) -> None:
        self._per_replica = per_replica

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number wanted; there is nothing to remember."""
        metrics = context.aggregated_metrics or {}
        return math.ceil(sum(metrics.get(ROW_DRAWS, {}).values()) / self._per_replica), {}
