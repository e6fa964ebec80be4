"""The service most people write first: a pydantic body, and the model called in the handler. `FOLDER PORT`."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

folder, port = Path(sys.argv[1]), int(sys.argv[2])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(folder / "elbo.onnx", options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
noise = np.load(folder / "noise.npy")
app = FastAPI()


class Body(BaseModel):
    """Images of 28 rows of 28 levels."""

    instances: list[list[list[int]]]


@app.post("/elbo")
async def elbo(body: Body) -> dict[str, list[float | None]]:
    """Every bound of each image."""
    x = np.array(body.instances, np.uint8)
    answer = session.run(names, {"x": x, "noise": noise})
    return {
        name: [None if np.isnan(value) else value for value in values.tolist()]
        for name, values in zip(names, answer, strict=True)
    }


uvicorn.run(app, port=port, log_level="warning")
