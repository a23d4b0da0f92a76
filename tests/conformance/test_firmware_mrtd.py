"""MRTD and TD HOB of real firmware, against values that others have computed or observed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tdxstack.abi.td_hob import build
from tdxstack.abi.tdvf import parse_image
from tdxstack.files import Directories
from tdxstack.firmware.fetch import PACKAGE
from tdxstack.firmware.find import Firmware, directories, find
from tdxstack.measurement.mrtd import mrtd
from tests.conformance import vectors

GIB = 1 << 30

DEBIAN_SHA256 = "a265075b4147a096109e501e76196df1ec8a18659c26f7401492c597ec88f312"
DEBIAN_MRTD = (
    "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08"
)
"""OVMF.inteltdx.ms.fd of Debian's ovmf-inteltdx 2026.08+ds-2, computed from what QEMU 11.1 gave to KVM."""


def debian_firmware() -> Firmware:
    """The Debian image, if the host has it or tdxstack has fetched it."""
    found = list(find(directories(os.environ, Path.home())).found)
    for tree in Directories.of_user(os.environ, os.getuid()).cache.glob(f"**/{PACKAGE}_*"):
        found += find([tree / "usr/share/qemu/firmware"], root=tree).found
    for firmware in found:
        if firmware.sha256 == DEBIAN_SHA256:
            return firmware
    pytest.skip("Debian's ovmf-inteltdx 2026.08+ds-2 is neither installed nor in tdxstack's cache")


def test_debian_firmware() -> None:
    image = debian_firmware().path.read_bytes()
    assert mrtd(image).single_pass.hex() == DEBIAN_MRTD
    metadata = parse_image(image)
    assert len(build(metadata, 2 * GIB).to_bytes()) == 448  # both as seen from QEMU 11.1
    assert len(build(metadata, 4 * GIB).to_bytes()) == 496


@pytest.mark.vectors
def test_fedora_firmware() -> None:
    result = mrtd(vectors.read("virtee+tdx/tests/data/OVMF.inteltdx.fd"))
    assert result.single_pass.hex().startswith("88c63708f207ab01a46b4d9424ea92ab")
    assert result.single_pass.hex().endswith("be0740b808894d55")
    assert result.two_pass.hex().startswith("307c9a6831bdd6e6f56d9305f9598d23")
    assert result.two_pass.hex().endswith("1a80fa77b200743d85d977e3")
