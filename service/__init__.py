"""Lowerbound's service: encode, decode, sample and score with a variational autoencoder on ONNX Runtime."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads this when it is imported, which is later. Switching its telemetry off after that is too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
