"""Seeded draws: the only source of randomness in the service, and the noise the bundle's graphs are fed."""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from service.errors import NotReadyError

SOBOL_BITS = 30
MAX_LATENT_SIZE = 21_201  # scipy's Sobol.MAXDIM: the direction numbers that are tabulated
MAX_DRAWS = 2**16


def base_samples(seed: int, num_draws: int, latent_size: int) -> npt.NDArray[np.float32]:
    """The noise shared by every row of an ELBO: scrambled Sobol points through the inverse normal CDF.

    Each point alone is exactly N(0, I) over the choice of seed; together they cover the space more evenly than
    independent draws, so that averages over them vary less (Owen 1997, "Scrambled net variance for integrals of smooth
    functions"; for variational bounds, Buchholz et al. 2018, "Quasi-Monte Carlo variational inference"). Points lie
    in the middle of their 2⁻³⁰ cells: no coordinate is ever infinite. The first K rows of a longer array of the same
    seed are the array of K draws.

    Args:
        seed: Names the scrambling, 0 to 2³² − 1.
        num_draws: K, 1 to `MAX_DRAWS`.
        latent_size: L, 1 to `MAX_LATENT_SIZE`.

    Returns:
        ε, shape (K, L), float32, in standard deviations of the posterior.

    Raises:
        NotReadyError: SciPy could not load its direction numbers.
    """
    from scipy.stats import qmc  # noqa: PLC0415 - a second, which processes that only read bodies need not spend

    sobol = qmc.Sobol(latent_size, scramble=True, bits=SOBOL_BITS, rng=np.random.default_rng(seed))
    # Whole powers of two are what Sobol points come in; the first K of them are the first K of the sequence.
    points = sobol.random_base2(math.ceil(math.log2(num_draws)))[:num_draws]
    # An interrupt or a lack of memory while SciPy loads its numbers is ignored there, and all points are the same.
    if num_draws > 1 and not np.all((points[0] < 0.5) != (points[1] < 0.5)):
        raise NotReadyError("the direction numbers of Sobol points could not be loaded; try again")
    return np.asarray(ndtri(points + 0.5 ** (SOBOL_BITS + 1)), dtype=np.float32)


def standard_normal(seed: int, shape: tuple[int, ...], stream: int = 0) -> npt.NDArray[np.float32]:
    """Independent N(0, 1) draws of any shape, float32, fixed by (seed, stream).

    Different streams of one seed are independent: the latents of a sample, say, and the noise on its pixels.
    """
    return np.random.default_rng([seed, stream]).standard_normal(shape, dtype=np.float32)


def uniform(seed: int, shape: tuple[int, ...], stream: int = 0) -> npt.NDArray[np.float32]:
    """Independent draws, uniform on the open interval (0, 1), float32, fixed by (seed, stream).

    Drawn at the centres of 2²³ equal cells, which float32 holds exactly, so that neither 0 nor 1 occurs and quantile
    functions stay finite.
    """
    cells = np.random.default_rng([seed, stream]).integers(0, 2**23, size=shape)
    return ((cells + 0.5) / 2**23).astype(np.float32)
