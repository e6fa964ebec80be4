"""Bundles of toy models: no good at anything, and easy to compute by hand."""

import datetime as dt
import math

import numpy as np
import onnx.parser

from service.bundle import (
    CALIBRATION,
    GOLDEN,
    Array,
    Calibration,
    CategoricalColumn,
    ImageInput,
    Manifest,
    NumericColumn,
    TabularInput,
    describe_files,
    write_arrays,
)
from service.bundle.graphs import graph_contract
from service.engine import OnnxEngine

TABLE_GRAPHS = {
    "encoder": """
        <ir_version: 10, opset_import: ["" : 20]>
        encoder (double[batch, 2] x) => (float[batch, 2] mean, float[batch, 2] log_variance) {
            zero = Constant <value = double {0.0}> ()
            missing = IsNaN (x)
            filled = Where (missing, zero, x)
            mean = Cast <to = 1> (filled)
            log_variance = Sub (mean, mean)
        }""",
    "decoder": """
        <ir_version: 10, opset_import: ["" : 20]>
        decoder (float[batch, 2] z) => (double[batch, 2] x_mean) {
            zero = Constant <value = float {0.0}> ()
            numeric = Constant <value = double[2] {1.0, 0.0}> ()
            categorical = Constant <value = double[2] {0.0, 1.0}> ()
            wide = Cast <to = 11> (z)
            positive = Greater (z, zero)
            code = Cast <to = 11> (positive)
            numbers = Mul (wide, numeric)
            codes = Mul (code, categorical)
            x_mean = Add (numbers, codes)
        }""",
    "elbo": """
        <ir_version: 10, opset_import: ["" : 20]>
        elbo (double[batch, 2] x, float[draws, 2] noise) => (
            double[batch] elbo, double[batch] log_likelihood, double[batch] kl, double[batch] standard_error,
            double[batch] log_evidence, double[batch] ess
        ) {
            zero = Constant <value = double {0.0}> ()
            columns = Constant <value = int64[1] {1}> ()
            missing = IsNaN (x)
            filled = Where (missing, zero, x)
            squares = Mul (filled, filled)
            energy = ReduceSum <keepdims = 0> (squares, columns)
            log_likelihood = Neg (energy)
            kl = ReduceSum <keepdims = 0> (filled, columns)
            elbo = Sub (log_likelihood, kl)
            narrow = ReduceMean <keepdims = 0> (noise)
            shift = Cast <to = 11> (narrow)
            log_evidence = Add (elbo, shift)
            standard_error = Abs (kl)
            nothing = Mul (kl, zero)
            ess = Exp (nothing)
        }""",
}
"""Of a table with a number and a category."""

EXPLAIN_TABLE = """
    <ir_version: 10, opset_import: ["" : 20]>
    explain (double[batch, 2] x, float[draws, 2] noise) => (
        double[batch, 2] feature_log_likelihood, double[batch, 2] latent_kl
    ) {
        zero = Constant <value = double {0.0}> ()
        missing = IsNaN (x)
        latent_kl = Where (missing, zero, x)
        squares = Mul (latent_kl, latent_kl)
        feature_log_likelihood = Neg (squares)
    }"""

COLOUR_GRAPHS = {
    "encoder": """
        <ir_version: 10, opset_import: ["" : 20]>
        encoder (float[batch, 4, 6, 3] x) => (float[batch, 2] mean, float[batch, 2] log_variance) {
            flat = Flatten (x)
            ends = Constant <value = int64[2] {0, 71}> ()
            mean = Gather <axis = 1> (flat, ends)
            log_variance = Sub (mean, mean)
        }""",
    "decoder": """
        <ir_version: 10, opset_import: ["" : 20]>
        decoder (float[batch, 2] z) => (float[batch, 4, 6, 3] x_mean) {
            first = Constant <value = int64[1] {0}> ()
            shade = Gather <axis = 1> (z, first)
            column = Constant <value = int64[4] {-1, 1, 1, 1}> ()
            point = Reshape (shade, column)
            size = Constant <value = int64[4] {1, 4, 6, 3}> ()
            grey = Expand (point, size)
            tint = Constant <value = float[3] {1.0, 0.5, -1.0}> ()
            x_mean = Mul (grey, tint)
        }""",
    "elbo": """
        <ir_version: 10, opset_import: ["" : 20]>
        elbo (float[batch, 4, 6, 3] x, float[draws, 2] noise) => (
            double[batch] elbo, double[batch] log_likelihood, double[batch] kl, double[batch] standard_error,
            double[batch] log_evidence, double[batch] ess
        ) {
            wide = Cast <to = 11> (x)
            squares = Mul (wide, wide)
            axes = Constant <value = int64[3] {1, 2, 3}> ()
            kl = ReduceSum <keepdims = 0> (squares, axes)
            log_likelihood = Neg (kl)
            elbo = Sub (log_likelihood, kl)
            log_evidence = Neg (kl)
            standard_error = Abs (kl)
            nothing = Sub (kl, kl)
            ess = Exp (nothing)
        }""",
    "explain": """
        <ir_version: 10, opset_import: ["" : 20]>
        explain (float[batch, 4, 6, 3] x, float[draws, 2] noise) => (
            double[batch, 4, 6, 3] feature_log_likelihood, double[batch, 2] latent_kl
        ) {
            wide = Cast <to = 11> (x)
            squares = Mul (wide, wide)
            feature_log_likelihood = Neg (squares)
            flat = Flatten (squares)
            ends = Constant <value = int64[2] {0, 71}> ()
            latent_kl = Gather <axis = 1> (flat, ends)
        }""",
}
"""Of pictures of 4 × 6 pixels in colours."""


def _ordinal_elbo(x: str, flat: str) -> str:
    """An ELBO that tells each value and place of `flat`, (batch, values) in double, from any other."""
    return f"""
        <ir_version: 10, opset_import: ["" : 20]>
        elbo ({x}, float[draws, 2] noise) => (
            double[batch] elbo, double[batch] log_likelihood, double[batch] kl, double[batch] standard_error,
            double[batch] log_evidence, double[batch] ess
        ) {{{flat}
            axis = Constant <value = int64 {{1}}> ()
            axes = Constant <value = int64[1] {{1}}> ()
            sums = CumSum (flat, axis)
            kl = ReduceMean <keepdims = 0> (sums, axes)
            log_likelihood = Neg (kl)
            elbo = Sub (log_likelihood, kl)
            log_evidence = Neg (kl)
            standard_error = Abs (kl)
            nothing = Sub (kl, kl)
            ess = Exp (nothing)
        }}"""


def image_graphs(data: ImageInput) -> dict[str, str]:
    """Graphs of pictures of any shape; the ELBO tells each pixel and place from any other."""
    shape, size = ", ".join(map(str, data.shape)), math.prod(data.shape)
    x = f"{'uint8' if data.dtype == 'uint8' else 'float'}[batch, {shape}] x"
    return {
        "encoder": f"""
        <ir_version: 10, opset_import: ["" : 20]>
        encoder ({x}) => (float[batch, 2] mean, float[batch, 2] log_variance) {{
            levels = Cast <to = 1> (x)
            flat = Flatten (levels)
            ends = Constant <value = int64[2] {{0, {size - 1}}}> ()
            mean = Gather <axis = 1> (flat, ends)
            log_variance = Sub (mean, mean)
        }}""",
        "decoder": f"""
        <ir_version: 10, opset_import: ["" : 20]>
        decoder (float[batch, 2] z) => (float[batch, {shape}] x_mean) {{
            first = Constant <value = int64[1] {{0}}> ()
            shade = Gather <axis = 1> (z, first)
            column = Constant <value = int64[{len(data.shape) + 1}] {{-1{", 1" * len(data.shape)}}}> ()
            point = Reshape (shade, column)
            size = Constant <value = int64[{len(data.shape) + 1}] {{1, {shape}}}> ()
            x_mean = Expand (point, size)
        }}""",
        "elbo": _ordinal_elbo(
            x,
            """
            wide = Cast <to = 11> (x)
            flat = Flatten (wide)""",
        ),
    }


def table_graphs(data: TabularInput) -> dict[str, str]:
    """Graphs of tables of any width; the ELBO tells each cell and place from any other, and a missing one is -1."""
    size = len(data.columns)
    x = f"double[batch, {size}] x"
    filled = """
            least = Constant <value = double {-1.0}> ()
            missing = IsNaN (x)
            flat = Where (missing, least, x)"""
    return {
        "encoder": f"""
        <ir_version: 10, opset_import: ["" : 20]>
        encoder ({x}) => (float[batch, 2] mean, float[batch, 2] log_variance) {{{filled}
            narrow = Cast <to = 1> (flat)
            ends = Constant <value = int64[2] {{0, {size - 1}}}> ()
            mean = Gather <axis = 1> (narrow, ends)
            log_variance = Sub (mean, mean)
        }}""",
        "decoder": f"""
        <ir_version: 10, opset_import: ["" : 20]>
        decoder (float[batch, 2] z) => (double[batch, {size}] x_mean) {{
            first = Constant <value = int64[1] {{0}}> ()
            narrow = Gather <axis = 1> (z, first)
            wide = Cast <to = 11> (narrow)
            nothing = Sub (wide, wide)
            size = Constant <value = int64[2] {{1, {size}}}> ()
            x_mean = Expand (nothing, size)
        }}""",
        "elbo": _ordinal_elbo(x, filled),
    }


def bundle_files(
    name: str, data: ImageInput | TabularInput, graphs: dict[str, str], x: Array, num_draws: int = 4
) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle of graphs with two latents, as someone with a model from elsewhere would make it; x are golden rows."""
    files = {f"{graph}.onnx": onnx.parser.parse_model(text).SerializeToString() for graph, text in graphs.items()}
    signatures = {graph: graph_contract(graph, data, 2) for graph in graphs}
    given: dict[str, Array] = {
        "x": x,
        "z": np.array([[1.0, 2.0], [0.5, -1.0]], np.float32),
        "noise": np.linspace(-1, 1, num_draws * 2, dtype=np.float32).reshape(num_draws, 2),
    }
    engine = OnnxEngine(signatures, files, "cpu")
    golden: dict[str, Array] = {}
    for graph, contract in signatures.items():
        inputs = {tensor.name: given[tensor.name] for tensor in contract.inputs}
        golden |= {f"{graph}.{tensor}": array for tensor, array in (inputs | engine.run(graph, inputs)).items()}
    held_out = np.sort(np.random.default_rng(0).normal(size=99))
    files |= {
        CALIBRATION: write_arrays({"noise": given["noise"], "negative_elbo": held_out}),
        GOLDEN: write_arrays(golden),
    }
    manifest = Manifest(
        format_version="1.0",
        name=name,
        version=1,
        created=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        input=data,
        latent_size=2,
        likelihood="toy",
        prior="toy",
        num_draws=num_draws,
        seed=7,
        scores=("negative_elbo",),
        default_score="negative_elbo",
        calibration=Calibration.of(99),
        tolerance=1e-3,
        graphs=signatures,
        files=describe_files(files),
    )
    return manifest, files


def table_files(num_draws: int = 4) -> tuple[Manifest, dict[str, bytes]]:
    """The bundle of a table with a number and a category."""
    columns = (NumericColumn(name="age"), CategoricalColumn(name="colour", categories=("red", "blue")))
    x = np.array([[1.5, 0.0], [np.nan, 1.0], [-2.0, np.nan]])
    return bundle_files("people", TabularInput(columns=columns), TABLE_GRAPHS, x, num_draws)
