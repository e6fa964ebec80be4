"""Lowerbound's trainer: from a table or a folder of images to a bundle that the service can answer from."""
