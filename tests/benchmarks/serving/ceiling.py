"""The ceiling: ONNX Runtime on the same graph and core, in process, one thread, arrays ready. `FOLDER SECONDS`.

Prints as JSON the rows per second by batch size, and the seconds that simdjson takes for a body of as many rows.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import orjson
import simdjson

BATCHES = (1, 64)


@functools.cache
def reference_session(folder: Path) -> ort.InferenceSession:
    """The graph, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(folder / "elbo.onnx", options, providers=["CPUExecutionProvider"])


def main(folder: Path, seconds: float) -> dict[str, dict[int, float]]:
    """Rows per second and seconds of parsing, by batch size."""
    session = reference_session(folder)
    noise = np.load(folder / "noise.npy")
    rows, parsing = {}, {}
    generator = np.random.default_rng(0)
    for batch in BATCHES:
        x = generator.integers(0, 256, (batch, 28, 28), np.uint8)
        body = orjson.dumps({"instances": x}, option=orjson.OPT_SERIALIZE_NUMPY)
        rows[batch] = batch * _rate(functools.partial(session.run, None, {"x": x, "noise": noise}), seconds)
        parsing[batch] = 1 / _rate(functools.partial(_parse, body), seconds / 4)
    return {"rows": rows, "parsing": parsing}


def _parse(body: bytes) -> object:
    return np.frombuffer(simdjson.Parser().parse(body)["instances"].as_buffer(of_type="d"))


def _rate(call: Callable[[], object], seconds: float) -> float:
    """Calls per second."""
    for _ in range(20):
        call()
    calls, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        call()
        calls += 1
    return calls / elapsed


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]))))
