"""Every file of the public vectors: that it is the one that the index describes, and passes its check."""

from __future__ import annotations

import json

import pytest

from tdxstack.host.module import Releases
from tests.conformance import vectors
from tests.conformance.entries import ENTRIES, Check, Elsewhere
from tests.conformance.items import MODULES

pytestmark = pytest.mark.vectors

CHECKS: dict[str, Check] = {name: use for name, use in ENTRIES.items() if not isinstance(use, Elsewhere)}


def test_every_file_of_the_index_has_a_check_or_a_reason() -> None:
    """A line that the index gains without one here is a test that is missing."""
    assert set(ENTRIES) == set(vectors.index()) | vectors.derived()
    assert all(use.where for use in ENTRIES.values() if isinstance(use, Elsewhere))


def test_every_file_is_the_one_that_the_index_describes() -> None:
    assert [name for name, entry in vectors.index().items() if not vectors.fits(name, entry)] == []


@pytest.mark.parametrize("name", CHECKS)
def test_file(name: str) -> None:
    CHECKS[name](name)


def test_tdx_modules_are_those_of_intels_releases() -> None:
    """MRSEAM by version as the index has computed it, TEE_TCB_SVN as quotes have shown it, versions as Intel
    maps them: the table that tdxstack ships says the same."""
    shipped = {release.version: release for release in Releases.load().releases}
    mapping = "intel+confidential-computing.tdx.tdx-module.binaries/mapping_file.json"
    released = {row["version"] for row in json.loads(vectors.read(mapping))["tdx_module_releases"]}
    modules = json.loads(vectors.read(vectors.DERIVED + "mrseam.json"))
    computed = {path.split("/")[2]: mrseam for mrseam, path in modules.items()}
    assert set(shipped) == set(computed) <= released
    assert {version: release.mrseam.hex() for version, release in shipped.items()} == computed
    assert {svn: version for svn, version in MODULES.items() if shipped[version].svn != svn} == {}
