from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import UsageError
from tdxstack.machine.spec import EmulatedTd, MachineSpec, TdSettings
from tdxstack.platform import Platform

EMULATED = EmulatedTd(Path("/keys/mac"), bytes(48), bytes(16), bytes(16))
SPEC = MachineSpec(
    name="td",
    platform=Platform.EMULATED,
    qemu=("/opt/qemu",),
    firmware=Path("/fw/OVMF.inteltdx.fd"),
    disk=Path("/images/base.qcow2"),
    authorized_key="ssh-ed25519 AAAA tdx",
    emulated_td=EMULATED,
)


@pytest.mark.parametrize("name", ["", "TD", "-td", "td-", "a" * 33, "../td", "t d"])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not usable"):
        replace(SPEC, name=name)


@pytest.mark.parametrize("vcpus", [0, 256])
def test_vcpus_out_of_range_are_refused(vcpus: int) -> None:
    with pytest.raises(UsageError, match="out of range"):
        replace(SPEC, vcpus=vcpus)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="511 MiB"):
        replace(SPEC, memory_mib=511)


def test_emulator_settings_go_with_the_emulated_platform_only() -> None:
    with pytest.raises(UsageError, match="emulator's settings"):
        replace(SPEC, platform=Platform.HARDWARE)
    with pytest.raises(UsageError, match="emulator's settings"):
        replace(SPEC, emulated_td=None)


def test_debug_on_hardware_is_refused_as_upstream_does() -> None:
    with pytest.raises(UsageError, match="DEBUG"):
        replace(SPEC, platform=Platform.HARDWARE, emulated_td=None, td=TdSettings(debug=True))
