"""The HTTP surface: routes, parameters, media types, errors as answers, and who may ask."""
