"""Readers: files of rows and of pictures become what the graphs take, by one rule for training and for clients."""

from service.readers.columns import CellProblem, parse_column, parse_table

__all__ = ["CellProblem", "parse_column", "parse_table"]
