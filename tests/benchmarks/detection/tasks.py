"""Tasks of detection: training rows, test rows, and the anomalies among them.

A one-class task trains on half of the normal rows, chosen at random by the seed, or on the official training set where
there is one; it is tested on the other normal rows and on all anomalies but those left in the training rows on purpose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from service.bundle import ImageInput, NumericColumn, TabularInput
from service.errors import FileError
from service.readers.arrays import read_idx

Array = npt.NDArray[Any]

MOST_LEFT_IN = 0.5
"""Share of a task's anomalies that may be left in the training rows; the others test."""


@dataclass(frozen=True, eq=False)
class Task:
    """Rows, raw.

    Attributes:
        data: What kind.
        train: (N, *shape).
        normal: Test rows that are like the training rows, (n, *shape).
        anomalies: Test rows that are not, by what they are.
        contamination: The share of anomalies in `train`.
    """

    data: ImageInput | TabularInput
    train: Array
    normal: Array
    anomalies: Mapping[str, Array]
    contamination: float = 0.0


@dataclass(frozen=True, eq=False)
class Experiment:
    """Tasks that share a table.

    Attributes:
        name: Of the experiment.
        title: For people.
        recipe: The model's, unless another is asked for.
        cases: The tasks' names.
        make: Case, seed and share of anomalies to leave in the training rows → task.
    """

    name: str
    title: str
    recipe: str
    cases: tuple[str, ...]
    make: Callable[[str, int, float], Task]


def shift(fashion: Path, mnist: Path) -> Experiment:
    """Clothes against digits, digits against clothes, and clothes against the same clothes flipped."""
    images = {"Fashion-MNIST": read_folder(fashion), "MNIST": read_folder(mnist)}

    def make(case: str, seed: int, contamination: float) -> Task:
        train, _, normal, _ = images[case]
        if case == "MNIST":
            return Task(PIXELS, train, normal, {"Fashion-MNIST": images["Fashion-MNIST"][2]})
        flipped = {"flipped left to right": normal[:, :, ::-1], "flipped upside down": normal[:, ::-1]}
        return Task(PIXELS, train, normal, {"MNIST": images["MNIST"][2], **flipped})

    return Experiment("shift", "One data set against another", "fashion-mnist", tuple(images), make)


def fashion_one_class(fashion: Path) -> Experiment:
    """One class of clothes against the nine others, on the official training and test sets."""
    train, train_labels, test, test_labels = read_folder(fashion)

    def make(case: str, seed: int, contamination: float) -> Task:
        known, strange = train[train_labels == int(case)], train[train_labels != int(case)]
        strange = strange[np.random.default_rng(seed).permutation(len(strange))]
        rows, share, _ = _contaminate(known, strange, contamination)
        normal = test_labels == int(case)
        return Task(PIXELS, rows, test[normal], {"the others": test[~normal]}, share)

    cases = tuple(map(str, range(10)))
    return Experiment("fashion-one-class", "Fashion-MNIST, one class against the rest", "fashion-mnist", cases, make)


def digits(one_class: bool) -> Experiment:
    """scikit-learn's digits: all but one against that one, or one against all others."""
    images = load_digits()
    rows = images.images.astype(np.uint8)

    def make(case: str, seed: int, contamination: float) -> Task:
        chosen = images.target == int(case)
        anomalous = ~chosen if one_class else chosen
        return _half(ImageInput(shape=(8, 8), dtype="uint8", low=0, high=16), rows, anomalous, seed, contamination)

    name, title = ("digits-one-class", "one against the rest") if one_class else ("digits-left-out", "one left out")
    return Experiment(name, f"digits, {title}", "digits", tuple(map(str, range(10))), make)


def tables(folder: Path) -> Experiment:
    """Every `.npz` file of a folder: X, (N, columns), and y, 1 for anomalies."""
    files = {path.stem: path for path in sorted(folder.glob("*.npz"))}
    if not files:
        raise FileError(f"{folder}: holds no .npz file")

    def make(case: str, seed: int, contamination: float) -> Task:
        with np.load(files[case], allow_pickle=False) as archive:
            rows, anomalous = archive["X"].astype(np.float64), archive["y"].reshape(-1).astype(bool)
        data = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(rows.shape[1])))
        return _half(data, rows, anomalous, seed, contamination)

    return Experiment("tables", "tables, one-class", "table", tuple(files), make)


PIXELS = ImageInput(shape=(28, 28), dtype="uint8", low=0, high=255)


def read_folder(folder: Path) -> tuple[Array, Array, Array, Array]:
    """Training images and labels, test images and labels, of a folder of IDX files."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    found = [min(folder.glob(f"{name}*"), default=None) for name in names]
    if None in found:
        raise FileError(f"{folder}: holds no {names[found.index(None)]}")
    first, second, third, fourth = (read_idx(path.read_bytes()) for path in found if path)
    return first, second, third, fourth


def _half(data: ImageInput | TabularInput, rows: Array, anomalous: Array, seed: int, contamination: float) -> Task:
    rng = np.random.default_rng(seed)
    normal, strange = (rng.permutation(np.flatnonzero(part)) for part in (~anomalous, anomalous))
    cut = len(normal) // 2
    train, share, used = _contaminate(rows[normal[:cut]], rows[strange], contamination)
    return Task(data, train, rows[normal[cut:]], {"anomalies": rows[strange[used:]]}, share)


def _contaminate(known: Array, strange: Array, share: float) -> tuple[Array, float, int]:
    """Training rows with that share of anomalies, as far as half of the anomalies reach; the share; their number."""
    number = min(round(share / (1 - share) * len(known)), int(MOST_LEFT_IN * len(strange)))
    return np.concatenate([known, strange[:number]]), number / (len(known) + number), number
