"""Readers of tables: files to columns of cells, columns to the numbers that the graphs take, and files to a schema."""

from service.readers.columns import CellProblem, parse_column, parse_table

__all__ = ["CellProblem", "parse_column", "parse_table"]
