"""Drift: a test, with a guarantee at every moment, of whether the rows scored still are as the held-out rows were.

The hypothesis is exchangeability: the n held-out scores and the arriving ones are in random order. No gambler has a
system against it: for all fair bets, a capital that starts at 1 ever reaches 1/α with probability ≤ α (Ville's
inequality). So a large capital is evidence against the hypothesis, at any time and over any number of rows. These are
conformal test martingales (Vovk, Gammerman and Shafer 2022, *Algorithmic Learning in a Random World*, part III).

**Fair odds.** P-values against the *same* held-out scores do not give them: given those scores, the p-values are
independent but not uniform, and a gambler gets rich on the difference. The gaps give fair odds. The held-out scores
divide the line into n + 1 gaps. An exchangeable score falls into each with the same probability, and makes two gaps of
it. So gaps, and bins of whole gaps, are hit like the colours of Pólya's urn. After t rows, the next falls into bin b
with probability P(b) = (g_b + N_b) / (n + 1 + t), for the bin's g_b gaps and its N_b rows so far. These odds learn from
the rows what the held-out scores leave open, and need one number for each bin. Equal scores are put in a random order,
by a generator with a fixed seed.

**Bets.** The bins lie between levels of the p-value. When bin b is hit, bet k multiplies its stake by f_k(b) = Q_k(b) /
P(b), Q_k being the bins' probabilities under an alternative. Some alternatives are relative to the learned odds, Q_k(b)
= P(b) r_k(b) / Σ_b' P(b') r_k(b'). There r_k is the likelihood ratio of scores with shifted or spread normal quantiles
to scores without. The others have a fixed share of the rows in the bin of the smallest p-values, and the rest as
learned.

**When to bet.** The time of a change is unknown, so the stakes are laid little by little: w_t = c / ((t+c-1)(t+c))
before row t, equally on all K bets. That leaves c / (t+c) in hand. Bet k then has R_k(t) = f_k(b_t) (R_k(t-1) + w_t /
K), the recursion of Shiryaev and Roberts with weights. The capital in hand and Σ_k R_k together are a martingale that
starts at 1. It is at least w_τ / K times the gain of bet k from row τ on: losses before a change do not count.

A small change that is there from the first row on is learned as if it were the held-out rows' inaccuracy, and never
found.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from service.bundle import Array

FALSE_ALARMS = 0.01
"""α: the probability of ever reaching a capital of 1/α where nothing drifts is at most this."""

LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""P-values between which the bins lie, as far as the held-out rows can tell them apart."""

SHIFTS = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
"""Alternatives: the scores' normal quantiles shifted by so many standard deviations."""

SPREADS = (0.5, 2.0)
"""Alternatives: the scores' normal quantiles spread by this factor."""

CONTAMINATIONS = (0.05, 0.2)
"""Alternatives: this share of the rows, beside its own, falls into the bin of the smallest p-values."""

HALF_LAID = 1_000
"""c: the rows after which half of the capital has been laid."""

_BLOCK = 512
"""Rows computed together, which bounds the memory."""

_SEED = 0
"""Of the order of equal scores."""


class Martingale:
    """A gambler's capital against exchangeability with held-out scores. Not to be fed from several threads at once.

    Args:
        held_out: The scores of n held-out rows, sorted ascending, shape (n,).

    Attributes:
        rows: t, how many scores it has seen.
        log_capital: The natural logarithm of the capital now; 0 at the start.
        log_maximum: The largest that `log_capital` has been.
    """

    def __init__(self, held_out: Array) -> None:
        n = held_out.size
        self.rows = 0
        self.log_capital = self.log_maximum = 0.0
        self._random = np.random.default_rng(_SEED)
        # Edge j is the held-out score with tops[j] gaps above it.
        tops = np.unique(np.clip(np.rint(np.array(LEVELS) * (n + 1)), 1, n).astype(int))
        tie_breaks = self._random.random(n)
        edges = np.lexsort((tie_breaks, held_out))[n - tops]
        self._edges, self._tie_breaks = held_out[edges], tie_breaks[edges]
        # Bins come in the order of their p-values.
        self._bins = np.arange(tops.size + 1)
        self._gaps = n + 1
        self._hits = np.diff(tops, prepend=0, append=n + 1)  # g + N
        self._ratios = _likelihood_ratios(tops / (n + 1))
        contaminations = np.array(CONTAMINATIONS)
        self._extreme = contaminations + (1 - contaminations) * tops[0] / (n + 1)
        self._log_stakes = np.full(self._ratios.shape[1] + self._extreme.size, -np.inf)  # log R

    def update(self, scores: Array) -> None:
        """Bet on scores, of shape (batch,), in the order in which they came."""
        for start in range(0, len(scores), _BLOCK):
            self._bet(self._find_bins(scores[start : start + _BLOCK]))

    def _find_bins(self, scores: Array) -> npt.NDArray[np.intp]:
        """Each score's bin: the number of edges that lie above it."""
        tie_breaks = self._random.random(len(scores))[:, None]
        scores = scores[:, None]
        above = (scores < self._edges) | ((scores == self._edges) & (tie_breaks < self._tie_breaks))
        return np.asarray(np.count_nonzero(above, axis=1))

    def _bet(self, bins: npt.NDArray[np.intp]) -> None:
        hit = bins[:, None] == self._bins  # (rows, bins)
        after = self._hits + np.cumsum(hit, axis=0)
        seen = self.rows + np.arange(len(bins))[:, None]  # Before each row.
        odds = (after - hit) / (self._gaps + seen)
        relative = self._ratios[bins] / (odds @ self._ratios)
        smallest = odds[:, :1]
        fixed = np.where(hit[:, :1], self._extreme / smallest, (1 - self._extreme) / (1 - smallest))
        log_gains = np.log(np.hstack([relative, fixed]))  # log f_k, (rows, bets)
        log_products = np.cumsum(log_gains, axis=0)
        laid = HALF_LAID / ((seen + HALF_LAID) * (seen + HALF_LAID + 1)) / self._log_stakes.size
        # R(t) over the product of gains up to t is a plain sum of stakes, each over the gains before it. Those that are
        # too small for floating point beside the largest are lost, which understates the capital.
        log_terms = np.vstack([self._log_stakes, np.log(laid) - (log_products - log_gains)])
        largest = log_terms.max(axis=0)
        with np.errstate(divide="ignore"):
            log_stakes = log_products + largest + np.log(np.cumsum(np.exp(log_terms - largest), axis=0)[1:])
        log_capital = _log_sum(np.hstack([log_stakes, np.log(HALF_LAID / (seen + HALF_LAID + 1))]))
        self.rows += len(bins)
        self.log_capital = float(log_capital[-1])
        self.log_maximum = max(self.log_maximum, float(log_capital.max()))
        self._hits, self._log_stakes = after[-1], log_stakes[-1]


def _log_sum(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logarithm of the sum of each row's exponentials."""
    largest = logs.max(axis=1, keepdims=True)
    return np.asarray(largest[:, 0] + np.log(np.exp(logs - largest).sum(axis=1)))


def _likelihood_ratios(levels: Array) -> npt.NDArray[np.float64]:
    """Each relative alternative's probability of a bin over that of a uniform p-value, shape (bins, bets).

    Args:
        levels: The p-values between the bins, ascending, shape (bins - 1,).
    """
    levels = np.array([0.0, *levels, 1.0])
    uniform = np.diff(levels)
    quantiles = ndtri(levels)  # Of minus the score: large scores have small p-values.
    shifted = [np.diff(ndtr(quantiles + shift)) for shift in SHIFTS]
    spread = [np.diff(ndtr(quantiles / spread)) for spread in SPREADS]
    return np.asarray(np.array([*shifted, *spread]) / uniform).T
