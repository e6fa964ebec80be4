"""Schemas: what each column of a table is, found by its cells or told, with the reason for each decision.

Nothing here imports PyTorch, so that the first look at a file is quick.
"""

from training.schema.decisions import Decision, Options, Problem, fold_notes, refused
from training.schema.numbers import inexact
from training.schema.stray_rows import doubt_rows, find_stray_rows
from training.schema.table import infer_table

__all__ = [
    "Decision",
    "Options",
    "Problem",
    "doubt_rows",
    "find_stray_rows",
    "fold_notes",
    "inexact",
    "infer_table",
    "refused",
]
