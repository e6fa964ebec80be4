"""From bytes to arrays and back: one codec for each media type."""
