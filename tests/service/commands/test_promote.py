"""`lowerbound promote`: an earlier version becomes the latest, and services take it."""

from pathlib import Path

import pytest

from service.bundle import read_bundle, write_bundle
from service.commands.promote import main
from service.errors import BundleError
from service.storage import LocalStore
from tests.service.toy_bundles import table_files


def test_an_earlier_version_becomes_the_latest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, files = table_files()
    for version in (1, 2):
        write_bundle(tmp_path, manifest.model_copy(update={"version": version, "seed": version}), files)
    main([str(tmp_path / "people" / "1")])
    place = Path(capsys.readouterr().out.strip())
    assert place == tmp_path.resolve() / "people" / "3"
    first, copy = read_bundle(tmp_path / "people" / "1"), read_bundle(place)
    assert copy.files == first.files
    assert copy.manifest.provenance.copy_of == first.digest
    same = {"version", "created", "provenance"}
    assert copy.manifest.model_dump(exclude=same) == first.manifest.model_dump(exclude=same)
    assert copy.manifest.created > first.manifest.created
    assert [ref.version for ref in LocalStore(tmp_path).list_bundles()] == [1, 2, 3]


def test_a_damaged_version_is_not_promoted(table_bundle: Path) -> None:
    (table_bundle / "elbo.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"elbo\.onnx"):
        main([str(table_bundle)])
    assert not table_bundle.with_name("2").exists()
