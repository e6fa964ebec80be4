"""The service on two engines for accelerators, the CPU in their place: `python -m tests.service.accelerated_server`."""

import sys

from service.bundle import Bundle
from service.cli import main
from service.engine import EngineFactory
from service.engine.accelerated import AcceleratedEngine
from service.engine.devices import Target
from service.engine.multi_device import MultiDeviceEngine


def make_engine(factory: EngineFactory, bundle: Bundle) -> MultiDeviceEngine:
    manifest = bundle.manifest
    engines = [
        AcceleratedEngine(
            manifest.graphs, bundle.files, Target("cpu"), max_batch=factory.max_batch, draws=manifest.num_draws
        )
        for _ in range(2)
    ]
    return MultiDeviceEngine(engines, {"tf32": 2.5})


EngineFactory.engine = make_engine  # type: ignore[method-assign,assignment]
sys.exit(main(["serve", *sys.argv[1:]]))
