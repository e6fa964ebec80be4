"""Bulk scoring: `lowerbound score`, files of rows far larger than memory, without a server."""
