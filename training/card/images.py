"""The card's sections that show images."""

from collections.abc import Iterator

import numpy as np

from service.bundle import Array, ImageInput
from training.card import pictures
from training.card.inputs import CardInputs
from training.card.page import Number, Picture, Scale, Section

PAIRS = 8
"""Columns of observed and expected images."""


def sections(inputs: CardInputs, data: ImageInput) -> Iterator[Section]:
    """Reconstructions, the strangest rows, samples and traversals."""
    yield _strangest(inputs, data)
    yield _reconstructions(inputs, data)
    yield _samples(inputs, data)
    yield _traversals(inputs, data)


def _reconstructions(inputs: CardInputs, data: ImageInput) -> Section:
    rows = inputs.ranked(2 * PAIRS)
    observed = pictures.shades(inputs.test[rows], data)
    expected = pictures.shades(inputs.decode(inputs.encode(rows)), data)
    filled = [np.pad(tiles, ((0, -len(tiles) % PAIRS), (0, 0), (0, 0), (0, 0))) for tiles in (observed, expected)]
    lines = [tiles[i : i + PAIRS] for i in range(0, len(rows), PAIRS) for tiles in filled]
    return Section(
        "reconstructions",
        "Reconstructions",
        f"{len(rows)} test rows at even steps from the most usual to the strangest by "
        f"{inputs.manifest.default_score}, none chosen by hand.",
        pictures=[
            Picture(
                "reconstructions",
                pictures.grid(np.concatenate(lines), PAIRS),
                f"{len(rows)} test images, each above what the model expects there.",
                "In turn a line of test images x and, below it, E[x|z] at the mean of their posteriors.",
                pixels=True,
            )
        ],
    )


def _samples(inputs: CardInputs, data: ImageInput) -> Section:
    z = inputs.prior[: PAIRS * PAIRS]
    return Section(
        "samples",
        "Prior samples",
        pictures=[
            Picture(
                "prior-samples",
                pictures.grid(pictures.shades(inputs.decode(z), data), PAIRS),
                f"{len(z)} images decoded from draws of the prior.",
                f"E[x|z] for the first {len(z)} draws z from the prior, seed {inputs.manifest.seed}, none left out.",
                pixels=True,
            )
        ],
    )


def _traversals(inputs: CardInputs, data: ImageInput) -> Section:
    base = inputs.typical
    shown = []
    for latent in inputs.latents[:PAIRS]:
        values = inputs.traversal(int(latent), PAIRS + 1)
        z = np.repeat(base[None], len(values), axis=0)
        z[:, latent] = values
        shown.append(
            Picture(
                f"traversal-{latent}",
                pictures.grid(pictures.shades(inputs.decode(z), data), len(values)),
                f"{len(values)} decoded images as latent {latent} goes from {values[0]:.2g} to {values[-1]:.2g}.",
                f"latent {latent}, from {Number(values[0], 2)} to {Number(values[-1], 2)}; KL "
                f"{Number(inputs.latent_kl[latent], 2)} nats",
                pixels=True,
            )
        )
    return Section(
        "traversals",
        "Latent traversals",
        "E[x|z] from the posterior mean of the test row of the median score, with one latent moved over three "
        f"standard deviations of the aggregate posterior on either side; the {len(shown)} most active latents.",
        pictures=shown,
    )


def _strangest(inputs: CardInputs, data: ImageInput) -> Section:
    rows = inputs.strangest(PAIRS)
    usual = np.median(_pixels(inputs.explained["feature_log_likelihood"], data), axis=0)
    answer = inputs.explain(rows)
    missing = np.maximum(usual - _pixels(answer["feature_log_likelihood"], data), 0)
    highest = max(float(np.quantile(missing, 0.995)), 1e-9)
    observed = pictures.shades(inputs.test[rows], data)
    expected = pictures.shades(inputs.decode(inputs.encode(rows)), data)
    shown = [
        Picture(
            f"strange-{i + 1}",
            pictures.grid(np.stack([observed[i], expected[i], pictures.heat(missing[i : i + 1], highest)[0]]), 3),
            f"Test row {inputs.row_numbers[row]}: the image, what the model expects, and a heat map of where it is "
            "unlikely.",
            inputs.describe(int(row), float(answer["latent_kl"][i].sum())),
            pixels=True,
        )
        for i, row in enumerate(rows)
    ]
    ramp = pictures.heat(np.linspace(0, 1, 256)[None, None], 1)
    scale = Picture("heat-scale", pictures.strip(ramp[0]), "Colours of the heat maps, dark to bright.", "", pixels=True)
    return Section(
        "strangest",
        "The strangest test rows",
        "Of each: the image, what the model expects (E[x|z] at the posterior's mean), and where its "
        "log-likelihood is lost: nats by which a pixel's lies below the median of that pixel over normal test "
        "rows.",
        pictures=shown,
        small=True,
        scale=Scale(scale, "0 nats", f"{Number(highest, 2)} nats and more"),
    )


def _pixels(values: Array, data: ImageInput) -> Array:
    """Numbers of features, (n, *shape), summed over the channels: (n, height, width)."""
    return values.reshape(len(values), *data.shape[:2], -1).sum(-1)
