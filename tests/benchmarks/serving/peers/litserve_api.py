"""LitServe: its LitAPI, JSON in and out. `FOLDER PORT`.

Without its batching, which was slower here at every load.
"""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])


class Elbo(litserve.LitAPI):
    """Every bound of each image."""

    def setup(self, device: str) -> None:
        """Load the graph, in the worker."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(FOLDER / "elbo.onnx", options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.noise = np.load(FOLDER / "noise.npy")

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        """One request's images."""
        return np.array(request["instances"], np.uint8)

    def predict(self, x: np.ndarray) -> list[np.ndarray]:
        """Every bound of all of them."""
        return self.session.run(self.names, {"x": x, "noise": self.noise})

    def encode_response(self, output: list[np.ndarray]) -> dict[str, list[float | None]]:
        """NaN, the standard error of one draw, has no JSON."""
        return {
            name: [None if np.isnan(value) else value for value in values.tolist()]
            for name, values in zip(self.names, output, strict=True)
        }


if __name__ == "__main__":
    litserve.LitServer(Elbo(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=PORT, num_api_servers=1, generate_client_file=False, log_level="warning"
    )
