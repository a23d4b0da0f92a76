"""One emulated platform, and a boot on it that every check passes, as files for the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.quoting.pki import Pki
from tests.recorded_boot import NOW, Keys, Recorded, pki_in, synthetic_boot
from tests.unit.cli.verification_files import Files, write_files


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki_in(tmp_path_factory.mktemp("emulated"), NOW)


@pytest.fixture(scope="session")
def keys(pki: Pki) -> Keys:
    return Keys.of(pki)


@pytest.fixture(scope="session")
def boot(pki: Pki) -> Recorded:
    return synthetic_boot(pki, NOW, quote_version=5)


@pytest.fixture
def files(tmp_path: Path, boot: Recorded, keys: Keys) -> Files:
    return write_files(tmp_path, boot, keys)
