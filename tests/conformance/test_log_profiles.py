"""The firmware of every public log, told from its events.

Expected values: by what the index says of the log, and by hand from the tag table of edk2. None of these logs
states its firmware's release, but their dates and projects bound it.
"""

from __future__ import annotations

from functools import partial

import pytest

from tdxstack.measurement.log_profile import Origin
from tdxstack.measurement.logs import read_log
from tests.conformance import items
from tests.conformance.entries import ENTRIES
from tests.conformance.vectors import CC_API, GO_EVENTLOG, GO_TDX_GUEST, TRUST_AUTHORITY, TRUSTEE, read

pytestmark = pytest.mark.vectors

CCEL = GO_EVENTLOG + "eventlogs/ccel/"
BEFORE_202411 = "fits edk2-stable202302 to 202408"
"""Canonical's and Intel's firmware of 2023 and 2024: the second separator is in RTMR0, UiApp is an option."""
GOOGLE = "Google Compute Engine, fits edk2-stable202411 to 202502"
"""Of 2024, with the separator in RTMR1 before edk2 had it there in a release."""
GOOGLE_DOUBLED = "Google Compute Engine, fits edk2-stable202302 to 202408"
"""The changed log: its separator was moved from RTMR1 to RTMR0."""

TD_LOGS = {
    GO_TDX_GUEST + "ccel/ccel_data.dat": GOOGLE,
    CCEL + "cos-113-intel-tdx.bin": GOOGLE,
    CCEL + "cos-113-intel-tdx-dupe-separator.bin": GOOGLE_DOUBLED,
    CCEL + "cos-113-intel-tdx-dupe-separator-unpadded.bin": GOOGLE_DOUBLED,
    CCEL + "CCEL_unpadded.data.bin": BEFORE_202411,
    TRUST_AUTHORITY + "go-tdx/test/resources/CCEL.data.bin": BEFORE_202411,
    TRUSTEE + "eventlog/test_data/CCEL_data_grub": BEFORE_202411,
    TRUSTEE + "eventlog/test_data/CCEL_data_ovmf": BEFORE_202411,
    TRUSTEE + "verifier/test_data/CCEL_data_ovmf": BEFORE_202411,
    CC_API + "ccel_data.bin": BEFORE_202411,
    TRUSTEE + "eventlog/test_data/CCEL_data": "td-shim",
    TRUSTEE + "verifier/test_data/CCEL_data": "td-shim",
    CCEL + "event_log.bin": "Intel's TDVF of 2022, before it was part of edk2, nearest edk2-stable202211: ",
}
"""How the summary of each begins."""

ALL_LOGS = [name for name, use in ENTRIES.items() if isinstance(use, partial) and use.func is items.event_log]
TPM_LOGS = sorted(set(ALL_LOGS) - set(TD_LOGS))
"""Of TPMs, and one of another technology, whose digests are SM3."""


@pytest.mark.parametrize("name", TD_LOGS)
def test_the_firmware_of_a_td(name: str) -> None:
    found = read_log(read(name)).firmware
    assert found is not None
    assert found.summary.startswith(TD_LOGS[name])
    assert Origin.UNKNOWN not in found.origins


def test_the_origins_of_the_early_tdvf() -> None:
    found = read_log(read(CCEL + "event_log.bin")).firmware
    assert found is not None
    own = [number - 1 for number, origin in enumerate(found.origins) if origin is Origin.EARLY_TDVF]
    assert own == [8, 9, 10, 11, 12, 14]  # ACPI DATA, kernel, three tables, the direct boot's command line


@pytest.mark.parametrize("name", TPM_LOGS)
def test_a_log_of_no_td_has_no_firmware_of_one(name: str) -> None:
    assert read_log(read(name)).firmware is None
