"""The service on two engines for accelerators, the CPU in their place: `python -m tests.service.buffered_server`."""

import sys

import service.repository
from service.__main__ import main
from service.buffered import BufferedEngine
from service.bundle import Bundle
from service.devices import Target
from service.fleet import Fleet
from service.placement import Placement


def make_engine(placement: Placement, bundle: Bundle) -> Fleet:
    manifest = bundle.manifest
    engines = [
        BufferedEngine(
            manifest.graphs, bundle.files, Target("cpu"), max_batch=placement.max_batch, draws=manifest.num_draws
        )
        for _ in range(2)
    ]
    return Fleet(engines, {"tf32": 2.5})


service.repository._make_engine = make_engine  # type: ignore[assignment]
sys.exit(main())
