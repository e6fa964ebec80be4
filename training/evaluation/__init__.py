"""What a model is worth: bounds, detection and baselines, by the service's own engine."""
