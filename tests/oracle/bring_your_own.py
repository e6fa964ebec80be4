"""Bring your own VAE: a bundle from weights trained anywhere. Needs the service, `onnx`, and no PyTorch.

    python bring_your_own.py ROWS.npy models && lowerbound serve --models models

The model is probabilistic PCA, z ~ N(0, I) and x|z ~ N(z W + b, σ²), fitted in closed form (Tipping and Bishop 1999),
with the linear encoder q(z|x) = N(x A + a, s²). Graphs take and give data units; all randomness comes in as `noise`.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from onnx import ModelProto, checker, numpy_helper, parser

from service.bundle import (
    Array,
    Calibration,
    Manifest,
    NumericColumn,
    TabularInput,
    describe_files,
    write_arrays,
    write_bundle,
)
from service.bundle.graphs import graph_contract
from service.engine import OnnxEngine
from service.scoring import conformal, noise

GRAPHS = {
    "encoder": """(double[batch, D] x) => (float[batch, L] mean, float[batch, L] log_variance) {
        xA = MatMul(x, A)
        exact = Add(xA, a)
        mean = Cast<to = 1>(exact)
        zero = Sub(mean, mean)
        log_variance = Add(zero, log_v)
    }""",
    "decoder": """(float[batch, L] z) => (double[batch, D] x_mean) {
        exact = Cast<to = 11>(z)
        zW = MatMul(exact, W)
        x_mean = Add(zW, b)
    }""",
    "elbo": """(double[batch, D] x, float[draws, L] noise) => (double[batch] elbo, double[batch] log_likelihood,
                double[batch] kl, double[batch] standard_error, double[batch] log_evidence, double[batch] ess) {
        first = Constant<value_ints = [1]>()
        last = Constant<value_ints = [-1]>()
        half = Constant<value = double {0.5}>()
        one = Constant<value = double {1.0}>()
        e = Constant<value = double {2.718281828459045}>()
        xA = MatMul(x, A)
        mean = Add(xA, a)
        means = Unsqueeze(mean, first)
        epsilon = Cast<to = 11>(noise)
        scaled = Mul(epsilon, s)
        z = Add(means, scaled)
        zW = MatMul(z, W)
        x_mean = Add(zW, b)
        xs = Unsqueeze(x, first)
        difference = Sub(xs, x_mean)
        residual = Div(difference, sigma)
        distance = ReduceSumSquare<keepdims = 0>(residual, last)
        half_distance = Mul(half, distance)
        log_p_x = Sub(log_norm, half_distance)
        z_square = ReduceSumSquare<keepdims = 0>(z, last)
        epsilon_square = ReduceSumSquare<keepdims = 0>(epsilon, last)
        squares = Sub(epsilon_square, z_square)
        half_squares = Mul(half, squares)
        log_ratio = Add(half_squares, sum_log_s)
        log_w = Add(log_p_x, log_ratio)

        log_likelihood = ReduceMean<keepdims = 0>(log_p_x, first)
        mean_square = ReduceSumSquare<keepdims = 0>(mean, last)
        half_mean_square = Mul(half, mean_square)
        kl = Add(half_mean_square, kl_of_v)
        elbo = Sub(log_likelihood, kl)

        zeros = Sub(log_w, log_w)
        ones = Pow(e, zeros)
        num_draws = ReduceSum<keepdims = 0>(ones, first)
        log_draws = ReduceLogSum<keepdims = 0>(ones, first)
        total = ReduceLogSumExp<keepdims = 0>(log_w, first)
        log_evidence = Sub(total, log_draws)
        twice = Add(log_w, log_w)
        twice_total = Add(total, total)
        total_of_twice = ReduceLogSumExp<keepdims = 0>(twice, first)
        log_share = Sub(twice_total, total_of_twice)
        log_ess = Sub(log_share, log_draws)
        ess = Pow(e, log_ess)

        centre = Unsqueeze(log_likelihood, first)
        centred = Sub(log_p_x, centre)
        spread = ReduceSumSquare<keepdims = 0>(centred, first)
        fewer = Sub(num_draws, one)
        variance = Div(spread, fewer)
        variance_of_mean = Div(variance, num_draws)
        standard_error = Sqrt(variance_of_mean)
    }""",
}


def write(repository: Path, name: str, weights: dict[str, Array], rows: Array, num_draws: int = 64) -> Path:
    """Write the bundle of W (L, D), b (D,), sigma (D,), A (D, L), a (L,), s (L,), calibrated on held-out rows."""
    latent_size, size = weights["W"].shape
    data = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(size)))
    s, sigma = weights["s"], weights["sigma"]
    constants = weights | {
        "log_v": (2 * np.log(s)).astype(np.float32),
        "sum_log_s": np.log(s).sum(),
        "kl_of_v": 0.5 * (s**2 - 1 - 2 * np.log(s)).sum(),
        "log_norm": -np.log(sigma).sum() - 0.5 * size * np.log(2 * np.pi),
    }

    def model(graph: str) -> ModelProto:
        text = GRAPHS[graph].replace("D]", f"{size}]").replace("L]", f"{latent_size}]")
        proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {graph} {text}')
        used = {tensor for node in proto.graph.node for tensor in node.input}
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items() if key in used
        )
        checker.check_model(proto, full_check=True)
        return proto

    files = {f"{graph}.onnx": model(graph).SerializeToString() for graph in GRAPHS}
    graphs = {graph: graph_contract(graph, data, latent_size) for graph in GRAPHS}
    engine = OnnxEngine(graphs, files, "cpu")

    base_samples = noise.base_samples(0, num_draws, latent_size)
    held_out = engine.run("elbo", {"x": rows, "noise": base_samples})
    scores = {name: np.sort(values) for name, values in conformal.scores(held_out).items()}
    golden: dict[str, Array] = {}
    inputs = {"x": rows[:4], "z": np.zeros((4, latent_size), np.float32), "noise": base_samples}
    for graph, tensors in graphs.items():
        given = {tensor.name: inputs[tensor.name] for tensor in tensors.inputs}
        golden |= {f"{graph}.{key}": array for key, array in (given | engine.run(graph, given)).items()}
    files |= {"calibration.npz": write_arrays({"noise": base_samples, **scores}), "golden.npz": write_arrays(golden)}

    manifest = Manifest(
        format_version="1.0",
        name=name,
        version=1,
        created=datetime.now(UTC),
        input=data,
        latent_size=latent_size,
        likelihood="gaussian",
        prior="standard_normal",
        num_draws=num_draws,
        seed=0,
        scores=tuple(scores),
        default_score="negative_elbo",
        calibration=Calibration.of(len(rows)),
        tolerance=1e-3,
        graphs=graphs,
        files=describe_files(files),
    )
    return write_bundle(repository, manifest, files)


def fit(rows: Array, latent_size: int) -> dict[str, Array]:
    """Probabilistic PCA by maximum likelihood; its posterior has a diagonal covariance, so this encoder is exact."""
    b = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    variance = values[:-latent_size].mean()
    W = (vectors[:, -latent_size:] * np.sqrt(values[-latent_size:] - variance)).T
    s = np.sqrt(variance / values[-latent_size:])
    A = W.T * s**2 / variance
    return {"W": W, "b": b, "sigma": np.full(len(b), np.sqrt(variance)), "A": A, "a": -b @ A, "s": s}


if __name__ == "__main__":
    table = np.load(sys.argv[1], allow_pickle=False).astype(np.float64)
    print(write(Path(sys.argv[2]), "mine", fit(table[::2], latent_size=2), table[1::2]))
