"""MLServer: a custom runtime with adaptive batching. `FOLDER PORT`.

It computes in the server's own process: on one core, workers would only cost.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])


class Elbo(MLModel):
    """Every bound of each image."""

    async def load(self) -> bool:
        """Load the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(FOLDER / "elbo.onnx", options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.noise = np.load(FOLDER / "noise.npy")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        answer = self.session.run(self.names, {"x": x, "noise": self.noise})
        outputs = [NumpyCodec.encode_output(name, values) for name, values in zip(self.names, answer, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    """Serve until told to stop."""
    settings = Settings(
        debug=False, host="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, metrics_endpoint=None, parallel_workers=0
    )
    model = ModelSettings(name="elbo", implementation=Elbo, max_batch_size=32, max_batch_time=0.0005)
    await MLServer(settings).start([model])


asyncio.run(main())
