"""Every architecture fits every likelihood, and answers a row without regard to its neighbours."""

import pytest
import torch

from service.bundle import ImageInput
from tests.training.kinds import KINDS, accepted
from training.model import ARCHITECTURES, VAE, ModelRecipe
from training.model.architectures import ArchitectureError, ConvolutionalDecoder, halvings
from training.model.build import build

L = 3
PAIRS = [
    (architecture, name, kind)
    for architecture in ARCHITECTURES
    for name, kind in accepted()
    if architecture != "convolutional" or isinstance(KINDS[kind].data, ImageInput)
]


def vae(architecture: str, name: str, kind: str, widths: tuple[int, ...] = (8, 8)) -> VAE:
    recipe = ModelRecipe(architecture=architecture, widths=widths, latent_size=L, likelihood=name)
    return build(recipe, KINDS[kind].data, KINDS[kind].rows, seed=0).eval()


@pytest.mark.parametrize(("architecture", "name", "kind"), PAIRS)
@torch.no_grad()
def test_shapes_and_rows_by_themselves(architecture: str, name: str, kind: str) -> None:
    model = vae(architecture, name, kind)
    x = torch.from_numpy(KINDS[kind].rows[:6])
    mean, log_variance = model.posterior(x)
    assert mean.shape == log_variance.shape == (6, L)
    params = model.decoder(mean)
    assert params.shape == (6, model.likelihood.num_params)
    assert model.likelihood.mean(params).shape == (6, x[0].numel())
    for i in range(6):
        alone = model.posterior(x[i : i + 1])
        torch.testing.assert_close(alone, (mean[i : i + 1], log_variance[i : i + 1]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.decoder(mean[i : i + 1]), params[i : i + 1], rtol=1e-5, atol=1e-5)
    # Different rows have different answers: nothing has collapsed.
    assert mean.std(0).min() > 0
    assert params.std(0).max() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_learns(architecture: str) -> None:
    model = vae(architecture, "gaussian_shared", "colour levels")
    x = torch.from_numpy(KINDS["colour levels"].rows[:8])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(
        2
    ):  # Residual blocks start as the identity, so that their inner weights learn from the second step on.
        optimizer.zero_grad()
        (-model.bounds(x, torch.randn(4, L, generator=torch.Generator().manual_seed(0))).elbo.mean()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("widths", [(4,), (4, 6), (4, 6, 8)])
@pytest.mark.parametrize("shape", [(28, 28), (7, 5, 3), (1, 1), (2, 9, 1)])
@torch.no_grad()
def test_convolutions_take_any_size(shape: tuple[int, int] | tuple[int, int, int], widths: tuple[int, ...]) -> None:
    data = ImageInput(shape=shape, dtype="uint8", low=0, high=255)
    rows = torch.randint(0, 256, (2, *shape), dtype=torch.uint8).numpy()
    recipe = ModelRecipe(architecture="convolutional", widths=widths, latent_size=L, likelihood="discretized_logistic")
    model = build(recipe, data, rows, seed=0)
    mean, _ = model.posterior(torch.from_numpy(rows))
    assert model.decoder(mean).shape == (2, 2 * len(data.features))


@torch.no_grad()
def test_convolutional_decoder_keeps_the_order_of_parameters_pixels_and_channels() -> None:
    decoder = ConvolutionalDecoder(7, 5, 3, 2, (4,), L)
    decoder.head.weight.zero_()
    assert decoder.head.bias is not None
    decoder.head.bias.copy_(torch.tensor([1.0, 2.0, 3.0, -1.0, -2.0, -3.0]))
    first, second = decoder(torch.zeros(1, L)).chunk(2, dim=-1)
    expected = torch.tensor([1.0, 2.0, 3.0]).expand(1, 7, 5, 3)
    torch.testing.assert_close(first.unflatten(1, (7, 5, 3)), expected)
    torch.testing.assert_close(second.unflatten(1, (7, 5, 3)), -expected)


def test_halvings() -> None:
    assert halvings(7, 5, 3) == [(7, 5), (4, 3), (2, 2), (1, 1)]
    assert halvings(1, 28, 1) == [(1, 28), (1, 14)]


@pytest.mark.parametrize("kind", ["numbers", "categories", "mixed table"])
def test_convolutions_need_images(kind: str) -> None:
    with pytest.raises(ArchitectureError, match="for images"):
        vae("convolutional", "mixed", kind)


def test_the_seed_decides_the_weights() -> None:
    recipe = ModelRecipe(widths=(4,), latent_size=L, likelihood="gaussian")
    example = KINDS["numbers"]
    first, same, other = (build(recipe, example.data, example.rows, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["encoder.0.layer.weight"], other["encoder.0.layer.weight"])
