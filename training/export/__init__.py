"""From a trained VAE to ONNX graphs."""
