"""A level of false alarms: the score to exceed, and how many alarms held-out rows may give."""

from scipy.stats import betabinom

from service.bundle import Array

LEVELS = (1, 5, 10)
"""Levels of false alarms, in percent."""


def threshold(held_out: Array, percent: int) -> float | None:
    """The score above which a row's conformal p-value is at most `percent` %.

    p ≤ α means that at most ⌊α (n + 1)⌋ − 1 of the n held-out scores are as large.

    Args:
        held_out: Sorted ascending, (n,).
        percent: The level, 100 α.

    Returns:
        A held-out score; None where n is too small for any row to reach the level.
    """
    rank = percent * (len(held_out) + 1) // 100
    return float(held_out[-rank]) if rank else None


def expected_alarms(rank: int, num_held_out: int, num_rows: int) -> tuple[int, int]:
    """The range that the number of rows with p ≤ rank / (n + 1) lies in, 19 times out of 20, if all are exchangeable.

    The number is beta-binomial: over the choice of the n held-out rows the true rate of alarms is distributed as
    Beta(rank, n + 1 − rank) (Vovk 2012, "Conditional validity of inductive conformal predictors"), where no two scores
    are equal.
    """
    alarms = betabinom(num_rows, rank, num_held_out + 1 - rank)
    return int(alarms.ppf(0.025)), int(alarms.ppf(0.975))
