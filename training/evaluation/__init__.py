"""Figures of a model: bounds, detection and baselines, by the service's own engine."""
