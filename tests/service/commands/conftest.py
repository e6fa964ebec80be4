"""Models and files for the commands that read labels."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from service.bundle import ImageInput, write_bundle
from tests.service.toy_bundles import bundle_files, image_graphs


class LabelledPictures(NamedTuple):
    """A model of pictures, a folder of three, and labels of the first, a normal one, and the last, an anomaly."""

    bundle: Path
    folder: Path
    labels: Path


@pytest.fixture
def pictures(tmp_path: Path) -> LabelledPictures:
    """Labels as the explorer saves them, which knows no folder."""
    data = ImageInput(shape=(4, 6), dtype="uint8", low=0, high=255)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6), np.uint8)
    bundle = write_bundle(tmp_path / "models", *bundle_files("pictures", data, image_graphs(data), pixels))
    folder, labels = tmp_path / "new", tmp_path / "labels.csv"
    folder.mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png")
    labels.write_text("file,label\n0.png,normal\n2.png,anomaly\n")
    return LabelledPictures(bundle, folder, labels)
