"""One emulated platform for all tests on synthetic evidence."""

from __future__ import annotations

import pytest

from tests.synthetic.evidence import Workshop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A platform with all its keys; what it makes by default is accepted."""
    return Workshop(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="session")
def other_shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Another platform, under a root of its own with the same name."""
    return Workshop(tmp_path_factory.mktemp("other"))
