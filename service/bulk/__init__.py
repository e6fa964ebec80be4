"""Bulk scoring: `python -m service.bulk`, files of rows far larger than memory, without a server."""
