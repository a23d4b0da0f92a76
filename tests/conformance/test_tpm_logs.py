"""PCRs that the logs of TPMs add up to, as google/go-eventlog's tests have them from the TPMs."""

from __future__ import annotations

import pytest

from tdxstack.measurement.log_replay import replay_logs
from tdxstack.measurement.logs import read_log
from tests.conformance.vectors import GO_EVENTLOG, read

pytestmark = pytest.mark.vectors

PCRS = {
    ("rhel8-uefi.bin", "sha1"): "0f2d3a2a 5cc54937 b2a83b0e b2a83b0e 7fbe2df3 3258daa1 b2a83b0e d7a632f8",
    ("rhel8-uefi.bin", "sha256"): "24af52a4 454220af 3d458cfe 3d458cfe 758a3d35 53d0ee36 3d458cfe 5fd54361",
    (
        "ubuntu-1804-amd-sev.bin",
        "sha1",
    ): "c032c3b5 35f38e5c b2a83b0e b2a83b0e 41c68947 baee22b5 b2a83b0e 6530ed2d",
    (
        "ubuntu-2104-no-dbx.bin",
        "sha256",
    ): "24af52a4 f7dab5fd 3d458cfe 3d458cfe 295aeaea e4f1359a 3d458cfe ca37324e",
    # A TPM that was started in locality 3, which PCR 0 starts from.
    ("glinux-alex.bin", "sha1"): "29d23660 db16852a 0c8ef58d b2a83b0e c56cddf3 23606963 b2a83b0e 9221b8fc",
    ("glinux-alex.bin", "sha256"): "0e5ea849 97504008 970096d4 3d458cfe ddb124ca fb58603 3d458cfe 9d1be463",
}
"""First digits of PCR 0 to 7."""


@pytest.mark.parametrize(("name", "algorithm"), PCRS)
def test_pcrs(name: str, algorithm: str) -> None:
    banks = replay_logs([read_log(read(f"{GO_EVENTLOG}eventlogs/tpm/{name}"))]).banks
    assert banks is not None
    for pcr, digits in enumerate(PCRS[name, algorithm].split()):
        assert banks[algorithm][f"pcr{pcr}"].hex().startswith(digits), pcr
