"""Lowerbound's service: encode, decode, sample and score with a variational autoencoder on ONNX Runtime."""

__version__ = "0.1.0"
