from __future__ import annotations

import pytest

from tdxstack.qemu import capabilities
from tdxstack.qemu.capabilities import FACTS, LIBVIRT_TDX_EVERYWHERE, TD_ENDS_AT_RESET, Fact


@pytest.mark.parametrize(
    ("version", "holds"), [((10, 0, 13), False), ((10, 1), True), ((10, 2, 2), True), ((11, 0), False)]
)
def test_tds_end_at_a_reset_before_11_0(version: tuple[int, ...], holds: bool) -> None:
    assert TD_ENDS_AT_RESET.holds(version) is holds


def test_libvirt_is_not_believed_from_11_6_to_11_9() -> None:
    believed = [minor for minor in range(13) if not LIBVIRT_TDX_EVERYWHERE.holds((11, minor))]
    assert believed == [0, 1, 2, 3, 4, 5, 10, 11, 12]
    assert LIBVIRT_TDX_EVERYWHERE.versions == "11.6 to before 11.10"


def test_the_table_has_every_fact() -> None:
    named = [value for value in vars(capabilities).values() if isinstance(value, Fact)]
    assert sorted(fact.what for fact in named) == sorted(fact.what for fact in FACTS)
