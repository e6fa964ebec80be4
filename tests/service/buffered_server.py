"""The service on two engines for accelerators, the CPU in their place: `python -m tests.service.buffered_server`."""

import sys

import service.inference.loader
from service.__main__ import main
from service.bundle import Bundle
from service.engine import Placement
from service.engine.buffered import BufferedEngine
from service.engine.devices import Target
from service.engine.multi_device import Fleet


def make_engine(placement: Placement, bundle: Bundle) -> Fleet:
    manifest = bundle.manifest
    engines = [
        BufferedEngine(
            manifest.graphs, bundle.files, Target("cpu"), max_batch=placement.max_batch, draws=manifest.num_draws
        )
        for _ in range(2)
    ]
    return Fleet(engines, {"tf32": 2.5})


service.inference.loader._make_engine = make_engine  # type: ignore[assignment]
sys.exit(main())
