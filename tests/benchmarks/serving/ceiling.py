"""The ceiling: ONNX Runtime on the same graph and core, in process, one thread, arrays ready. `FOLDER SECONDS`.

Prints rows per second by batch size as JSON.
"""

import functools
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

BATCHES = (1, 64)


@functools.cache
def reference_session(folder: Path) -> ort.InferenceSession:
    """The graph, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(folder / "elbo.onnx", options, providers=["CPUExecutionProvider"])


def main(folder: Path, seconds: float) -> dict[int, float]:
    """Rows per second by batch size."""
    session = reference_session(folder)
    noise = np.load(folder / "noise.npy")
    rates = {}
    for batch in BATCHES:
        inputs = {"x": np.full((batch, 28, 28), 7, np.uint8), "noise": noise}
        for _ in range(20):
            session.run(None, inputs)
        calls, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:
            session.run(None, inputs)
            calls += 1
        rates[batch] = batch * calls / elapsed
    return rates


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]))))
