"""Fixtures of the service's tests: bundles on disk, arrays to send, and servers, some of which must not start."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.bundle import Array, Bundle, Manifest, read_bundle, write_bundle
from service.storage import DEFAULT_REPOSITORY
from tests import warm
from tests.conftest import Serve
from tests.service.toy_bundles import EXPLAIN_TABLE, TABLE_GRAPHS, bundle_files, table_files

Refused = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def digits_bundle() -> Bundle:
    """The embedded default bundle."""
    return read_bundle(DEFAULT_REPOSITORY / "digits" / "1")


@pytest.fixture(scope="session")
def several_models(tmp_path_factory: pytest.TempPathFactory, digits_bundle: Bundle) -> Path:
    """A repository of a table's model and of two versions of the digits."""
    folder = tmp_path_factory.mktemp("several")
    for version in (1, 2):
        manifest = digits_bundle.manifest.model_copy(update={"version": version})
        write_bundle(folder, manifest, digits_bundle.files)
    write_bundle(folder, *table_files())
    return folder


@pytest.fixture
def table() -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a table's bundle, to be changed and written."""
    return table_files()


@pytest.fixture
def table_bundle(tmp_path: Path) -> Path:
    """The folder of a fresh table's bundle, to be damaged: `<tmp_path>/people/1`."""
    return write_bundle(tmp_path, *table_files())


@pytest.fixture(scope="session")
def explaining_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a table's bundle that explains its bounds."""
    rows = np.array([[1.5, 0.0], [np.nan, 1.0]])
    data = table_files()[0].input
    files = bundle_files("people", data, TABLE_GRAPHS | {"explain": EXPLAIN_TABLE}, rows)
    return write_bundle(tmp_path_factory.mktemp("explaining"), *files)


@pytest.fixture(scope="session")
def refused() -> Refused:
    """Start a server that must not start: what the process said, and its exit status."""

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return warm.run(["service", "--port", "0", *arguments])

    return start


@pytest.fixture(scope="session")
def x() -> Array:
    return np.random.default_rng(0).integers(0, 17, (5, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="session")
def latent_size(digits_bundle: Bundle) -> int:
    return digits_bundle.manifest.latent_size


@pytest.fixture(scope="session")
def z(latent_size: int) -> Array:
    return np.random.default_rng(1).standard_normal((5, latent_size), dtype=np.float32)


@pytest.fixture(scope="session")
def several(serve: Serve, several_models: Path) -> Iterator[httpx.Client]:
    with serve("--models", str(several_models), "--engine-threads", "1") as client:
        yield client


@pytest.fixture(scope="session")
def small(serve: Serve) -> Iterator[httpx.Client]:
    """A server that takes little: 3,000 bytes, 4,096 row-draws, 1,024 draws."""
    with serve("--max-body", "3000", "--max-queue", "4096", "--max-draws", "1024", "--engine-threads", "1") as client:
        yield client
