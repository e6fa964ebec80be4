"""A repository of bundles in a folder, to be stored elsewhere."""

from pathlib import Path

import pytest

from tests.service.bundle_versions import publish


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A repository of one version, to be mirrored."""
    publish(tmp_path / "models", 1)
    return tmp_path / "models"
