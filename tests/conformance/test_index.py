"""Every file of the public vectors: that it is the one that the index describes, and passes its check."""

from __future__ import annotations

import json

import pytest

from tests.conformance import vectors
from tests.conformance.entries import ENTRIES, Check, Elsewhere

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


def test_mrseams_are_known_for_released_modules_alone() -> None:
    name = "intel+confidential-computing.tdx.tdx-module.binaries/mapping_file.json"
    released = {row["version"] for row in json.loads(vectors.read(name))["tdx_module_releases"]}
    modules = json.loads(vectors.read(vectors.DERIVED + "mrseam.json"))
    assert {path.split("/")[2] for path in modules.values()} <= released
