"""The card's sections that say what the model has learned, and how: the latent space, the training."""

from collections.abc import Iterator

import numpy as np

from service.bundle import Array
from training.card import charts
from training.card.inputs import CardInputs
from training.card.page import Number, Picture, Section
from training.fit import Epoch
from training.fit.diagnostics import ACTIVE

MOST_LATENTS = 40


def sections(inputs: CardInputs) -> Iterator[Section]:
    """Latent space and training."""
    yield _latents(inputs)
    if inputs.best is not None:
        yield _training(inputs, inputs.best)


def _latents(inputs: CardInputs) -> Section:
    mean, variance = inputs.posterior["mean"], np.exp(inputs.posterior["log_variance"])
    order = inputs.latents[:MOST_LATENTS]
    names = [str(latent) for latent in order]
    active = int(np.sum(mean.var(0) > ACTIVE))
    aggregate = mean.mean(0), np.sqrt(mean.var(0) + variance.mean(0))
    prior = inputs.prior.mean(0), inputs.prior.std(0)
    by_activity = "latent, by activity" + (f" (first {MOST_LATENTS})" if len(inputs.latents) > MOST_LATENTS else "")
    pictures = [
        Picture(
            "latent-kl",
            charts.bars(inputs.latent_kl[order], names, by_activity, "KL (nats per row)"),
            "Bars: mean KL of each latent, largest first: "
            + ", ".join(f"latent {i} {inputs.latent_kl[i]:.2g}" for i in order[:8])
            + " nats.",
            "What each latent carries: its mean share of KL(q ‖ p). Near zero, a latent is not used.",
        ),
        Picture(
            "latent-moments",
            charts.moments(
                (aggregate[0][order], aggregate[1][order]), (prior[0][order], prior[1][order]), names, by_activity, "z"
            ),
            "Mean and standard deviation of each latent under the aggregate posterior, over the prior's: the means "
            f"lie between {aggregate[0].min():.2g} and {aggregate[0].max():.2g}, the standard deviations between "
            f"{aggregate[1].min():.2g} and {aggregate[1].max():.2g}.",
            "Mean ± standard deviation of the aggregate posterior (the mixture of q(z|x) over the rows) and, grey, "
            "of the prior. Where they differ, samples from the prior come from where no data lies.",
        ),
    ]
    if len(inputs.latents) > 1 and len(mean) > 1:
        pictures.append(_projection(inputs, mean))
    return Section(
        "latents",
        "Latent space",
        f"{active} of {len(inputs.latents)} latents are active: the variance of their posterior mean over "
        f"{len(mean):,} normal test rows exceeds {ACTIVE} (Burda et al. 2016).",
        pictures=pictures,
    )


def _projection(inputs: CardInputs, mean: Array) -> Picture:
    centre = mean.mean(0)
    directions = np.linalg.svd(mean - centre, full_matrices=False)[2][:2]
    strange = inputs.default_p_values <= 0.05
    unusual = np.flatnonzero(strange)[:500]
    rows = inputs.usual[~strange[inputs.usual]]
    share = float(np.sum(((mean - centre) @ directions.T).var(0)) / max(mean.var(0).sum(), 1e-300))
    clouds = {
        "draws from the prior": (inputs.prior[: len(mean)] - centre) @ directions.T,
        "test rows": (mean[rows] - centre) @ directions.T,
        "p-value ≤ 5 %": (inputs.encode(unusual) - centre) @ directions.T if unusual.size else np.empty((0, 2)),
    }
    return Picture(
        "aggregate-posterior",
        charts.scatter(clouds, "first principal axis of the posterior means", "second principal axis"),
        f"Scatter plot of posterior means on their first two principal axes: {len(rows):,} test rows, "
        f"{len(unusual):,} with a p-value of at most 5 %, and draws from the prior.",
        f"Posterior means on the two axes along which they vary most ({100 * share:.0f} % of their variance), in "
        "latent units, over draws from the prior on the same axes.",
    )


def _training(inputs: CardInputs, best: Epoch) -> Section:
    history = inputs.history
    charted = {
        "elbo": (
            "ELBO",
            "The loss differs from the ELBO while the KL's weight rises, and by free bits.",
            {
                "training, one draw": [epoch.log_likelihood - epoch.kl for epoch in history],
                "held out": [epoch.held_out_elbo for epoch in history],
                "−training loss": [-epoch.loss for epoch in history],
            },
        ),
        "log-likelihood": (
            "Log-likelihood",
            "How well x is told from z.",
            {
                "training": [epoch.log_likelihood for epoch in history],
                "held out": [epoch.held_out_log_likelihood for epoch in history],
            },
        ),
        "kl": (
            "KL",
            (
                "What z costs: what it tells of x, and how far all rows' z together are from the prior (held out; by "
                "an estimate of the former that the logarithm of the number of rows limits)."
            ),
            {
                "training": [epoch.kl for epoch in history],
                "held out": [epoch.held_out_kl for epoch in history],
                "mutual information of x and z": [epoch.mutual_information for epoch in history],
                "KL(q(z) ‖ p(z))": [epoch.marginal_kl for epoch in history],
            },
        ),
        "active-units": (
            "Active latents",
            "Latents in use: those whose posterior mean varies.",
            {"held out": [float(epoch.active_units) for epoch in history]},
        ),
    }
    pictures = [
        Picture(
            f"training-{name}",
            charts.curves(series, "latents" if name == "active-units" else "nats per row", best.epoch),
            f"{title} by epoch over {len(history)} epochs; at the best epoch, {best.epoch}: "
            + ", ".join(f"{label} {values[best.epoch - 1]:.4g}" for label, values in series.items()),
            f"{title}. {meaning}",
        )
        for name, (title, meaning, series) in charted.items()
    ]
    return Section(
        "training",
        "Training",
        f"{len(history)} epochs; the weights are those of epoch {best.epoch}, the best by the validation rows, "
        f"whose ELBO was {Number(best.held_out_elbo, 5)} nats on average. Held out here means those rows.",
        pictures=pictures,
    )
