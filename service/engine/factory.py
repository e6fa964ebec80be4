"""The engine factory: which engine serves a bundle, on which devices and at which precision."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.bundle import Bundle
from service.engine import Engine, OnnxEngine, golden_error, verify_golden
from service.engine.accelerated import AcceleratedEngine
from service.engine.devices import PROVIDERS, Device, Kind, Precision, Target, choose
from service.engine.multi_device import MultiDeviceEngine
from service.errors import DeviceError

logger = logging.getLogger("service")


@dataclass(frozen=True)
class EngineFactory:
    """Makes the engines of bundles.

    Attributes:
        device: See `devices.choose`.
        precision: The lowest that may be used.
        max_batch: Most row-draws that an accelerator computes at once.
        memory: See `Target`.
        cache: See `Target`.
    """

    device: Device = "auto"
    precision: Precision = "float32"
    max_batch: int = 512
    memory: int | None = None
    cache: Path | None = None

    def engine(self, bundle: Bundle) -> Engine:
        """An engine for a bundle: on an accelerator one for each visible device.

        Raises:
            DeviceError: The device asked for cannot be used, or not at this precision.
            BundleError: A graph cannot be loaded, or one of several devices fails its golden rows.
        """
        kind = choose(self.device)
        if not PROVIDERS[kind].accelerates:
            return OnnxEngine(bundle.manifest.graphs, bundle.files, kind)

        def make(precision: Precision, number: int = 0) -> Engine:
            target = Target(kind, number, precision, self.memory, self.cache)
            manifest = bundle.manifest
            return AcceleratedEngine(
                manifest.graphs, bundle.files, target, max_batch=self.max_batch, draws=manifest.num_draws
            )

        first, refused = select_precision(allowed_precisions(kind, self.precision), make, bundle)
        others = [make(first.precision, number) for number in range(1, PROVIDERS[kind].count())]
        for engine in others:
            verify_golden(engine, bundle)
        return MultiDeviceEngine([first, *others], refused)


def allowed_precisions(kind: Kind, precision: Precision) -> list[Precision]:
    """The precisions that a device has and the user allows, the lowest first.

    Raises:
        DeviceError: There is nothing.
    """
    order: list[Precision] = ["float32", "tf32", "float16"]
    allowed = [
        p for p in reversed(order) if p in PROVIDERS[kind].precisions and order.index(p) <= order.index(precision)
    ]
    if not allowed:
        raise DeviceError(
            f"device={kind} cannot compute in {precision}, only in {', '.join(PROVIDERS[kind].precisions)}"
        )
    return allowed


def select_precision(
    precisions: Sequence[Precision], make: Callable[[Precision], Engine], bundle: Bundle
) -> tuple[Engine, dict[Precision, float]]:
    """The engine of the first precision at which the golden ELBOs are right, and the golden errors of those before it.

    The last precision is taken as it is: what it answers is the bundle's golden check to judge.
    """
    refused: dict[Precision, float] = {}
    golden = {tensor.name: bundle.golden["elbo"][tensor.name] for tensor in bundle.manifest.graphs["elbo"].inputs}
    for precision in precisions[:-1]:
        engine = make(precision)
        error = golden_error(engine.run("elbo", golden), bundle)
        if error <= 1:
            return engine, refused
        refused[precision] = error
        logger.warning(
            "%s: in %s the golden ELBOs are %.3g times the tolerance away", bundle.manifest.name, precision, error
        )
        del engine  # The next one needs its memory.
    return make(precisions[-1]), refused
