"""Readers: files of rows and of pictures become what the graphs take, by one rule for training and for clients."""

from service.readers.columns import TOO_LARGE, CellProblem, describe_value, parse_column, parse_table
from service.readers.samples import possible_rows

__all__ = ["TOO_LARGE", "CellProblem", "describe_value", "parse_column", "parse_table", "possible_rows"]
