"""Valid bundles, damaged at random: each is read, or refused with its place.

`pytest -s tests/service/bundle/test_damage.py` prints how many were tried, and what became of them.
"""

import collections
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import CALIBRATION, GOLDEN, MANIFEST, describe_files, read_bundle
from service.errors import BundleError
from tests.service.damage import THOROUGH, Counts, damaged, edited, report
from tests.service.toy_bundles import table_files

pytestmark = pytest.mark.slow


def test_damaged_bundles_are_read_or_refused(tmp_path: Path) -> None:
    """Its manifest edited or damaged; its arrays damaged, under a manifest that says so."""
    manifest, files = table_files()
    folder = tmp_path / "people" / "1"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    text = manifest.model_dump_json().encode()
    counts: dict[str, Counts] = collections.defaultdict(Counts)

    def read(kind: str) -> None:
        try:
            bundle = read_bundle(folder)
            assert bundle.golden["elbo"]
            counts[kind]["read"] += 1
        except BundleError as error:
            counts[kind]["BundleError" if str(folder) in str(error) else "BundleError of no place"] += 1

    @given(content=damaged([text]) | edited([json.loads(text)]).map(lambda document: json.dumps(document).encode()))
    @THOROUGH
    def manifests(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(content)
        read(MANIFEST)

    @given(name=st.sampled_from([CALIBRATION, GOLDEN]), data=st.data())
    @settings(THOROUGH, max_examples=1000)
    def arrays(name: str, data: st.DataObject) -> None:
        content = data.draw(damaged([files[name]]))
        (folder / name).write_bytes(content)
        described = manifest.model_copy(update={"files": describe_files(files | {name: content})})
        (folder / MANIFEST).write_bytes(described.model_dump_json().encode())
        read(name)
        (folder / name).write_bytes(files[name])

    manifests()
    arrays()
    assert not any(found["BundleError of no place"] for found in counts.values())
    report(counts)
