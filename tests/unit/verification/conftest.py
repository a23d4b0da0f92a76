"""One emulated platform, and a boot on it that every check passes, for all tests of verification."""

from __future__ import annotations

import pytest

from tdxstack.quoting.pki import Pki
from tests.recorded_boot import NOW, Keys, Recorded, pki_in, synthetic_boot


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki_in(tmp_path_factory.mktemp("emulated"), NOW)


@pytest.fixture(scope="session")
def keys(pki: Pki) -> Keys:
    return Keys.of(pki)


@pytest.fixture(scope="session")
def boot(pki: Pki) -> Recorded:
    return synthetic_boot(pki, NOW, quote_version=5)
