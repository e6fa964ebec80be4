"""NVIDIA Triton, as the wheel nvidia-pytriton carries it: Python backend, ONNX Runtime in it, dynamic batching.

`FOLDER PORT`. The server runs as such, with a model repository of its own, not behind PyTriton's proxy.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytriton

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
OUTPUTS = ("elbo", "log_likelihood", "kl", "standard_error", "log_evidence", "ess")

SCALAR = '{{ name: "{}" data_type: TYPE_FP64 dims: [1] reshape: {{ shape: [] }} }}'
CONFIG = f"""
backend: "python"
max_batch_size: 512
input [{{ name: "x" data_type: TYPE_UINT8 dims: [28, 28] }}]
output [{", ".join(map(SCALAR.format, OUTPUTS))}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""

MODEL = f"""
import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb

OUTPUTS = {list(OUTPUTS)}


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession("{FOLDER}/elbo.onnx", options, providers=["CPUExecutionProvider"])
        self.noise = np.load("{FOLDER}/noise.npy")

    def execute(self, requests):
        xs = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        x = np.concatenate(xs) if len(xs) > 1 else xs[0]
        answer = self.session.run(OUTPUTS, {{"x": x, "noise": self.noise}})
        responses, start = [], 0
        for x in xs:
            stop = start + len(x)
            tensors = [pb.Tensor(name, values[start:stop]) for name, values in zip(OUTPUTS, answer)]
            responses.append(pb.InferenceResponse(tensors))
            start = stop
        return responses
"""

work = Path(tempfile.mkdtemp(prefix="triton-", dir=FOLDER))
version = work / "models" / "elbo" / "1"
version.mkdir(parents=True)
(version / "model.py").write_text(MODEL)
(version.parent / "config.pbtxt").write_text(CONFIG)

package = Path(pytriton.__file__).parent
triton = package / "tritonserver"
stub = triton / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
shutil.copytree(triton / "backends", work / "backends")
shutil.copy(stub / "triton_python_backend_stub", work / "backends" / "python")

libraries = [str(package.parent / "nvidia_pytriton.libs"), f"{sys.base_prefix}/lib"]
environment = os.environ | {
    "LD_LIBRARY_PATH": ":".join(libraries),
    "PYTHONPATH": str(package.parent),
    "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
}
arguments = {
    "model-repository": work / "models",
    "backend-directory": work / "backends",
    "http-port": PORT,
    "http-address": "127.0.0.1",
    "allow-grpc": "false",
    "allow-metrics": "false",
    "log-info": "false",
}
program = str(triton / "bin" / "tritonserver")
os.execve(program, [program, *(f"--{key}={value}" for key, value in arguments.items())], environment)
