"""QEMU command lines, kept as text beside this file. Set TDX_UPDATE_GOLDEN=1 to write them anew."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import DirectKernel, EmulatedTd, MachineSpec, PageTracking, TdSettings
from tdxstack.machine.store import MachineFiles
from tdxstack.platform import Platform

GOLDEN = Path(__file__).parent
FILES = MachineFiles(Path("/data/machines/td"), Path("/run/tdxstack/machines/td"))
EMULATED = MachineSpec(
    name="td",
    platform=Platform.EMULATED,
    qemu=("/opt/emulator/qemu-system-x86_64", "-L", "/opt/emulator/data"),
    firmware=Path("/fw/OVMF.inteltdx.ms.fd"),
    disk=Path("/images/base.qcow2"),
    authorized_key="ssh-ed25519 AAAA tdx",
    emulated_td=EmulatedTd(Path("/data/pki/mac.key"), b"\1" * 48, b"\2" * 16, b"\3" * 16),
    quote_socket=Path("/run/tdxstack/qgs"),
)
HARDWARE = replace(
    EMULATED,
    platform=Platform.HARDWARE,
    qemu=("qemu-system-x86_64",),
    emulated_td=None,
    vcpus=4,
    memory_mib=8192,
)
SPECS = {
    "emulated-td": EMULATED,
    "emulated-td-strict-debug": replace(
        EMULATED,
        td=TdSettings(debug=True, mrconfigid=b"\4" * 48),
        emulated_td=EmulatedTd(
            Path("/data/pki/mac.key"), b"\1" * 48, b"\2" * 16, b"\3" * 16, ve=True, sept=PageTracking.ON
        ),
    ),
    "emulated-td-direct-kernel": replace(
        EMULATED,
        direct_kernel=DirectKernel(Path("/boot/vmlinuz"), Path("/boot/initrd.img"), "console=ttyS0 quiet"),
    ),
    "hardware-td": HARDWARE,
    "ordinary-on-tcg": replace(EMULATED, td=None, emulated_td=None, quote_socket=None),
}


@pytest.mark.parametrize("name", SPECS)
def test_command_line_is_as_recorded(name: str) -> None:
    lines = _lines(build_qemu_command(SPECS[name], FILES))
    golden = GOLDEN / f"qemu-{name}.txt"
    if os.environ.get("TDX_UPDATE_GOLDEN") == "1":
        golden.write_text(lines)
    assert lines == golden.read_text()


def test_commas_in_paths_are_doubled() -> None:
    argv = build_qemu_command(EMULATED, replace(FILES, runtime=Path("/run/a,b")))
    assert "unix:/run/a,,b/qmp,server=on,wait=off" in argv


def test_overlong_socket_path_is_refused() -> None:
    with pytest.raises(UnavailableError, match="longer than 107 bytes"):
        build_qemu_command(EMULATED, replace(FILES, runtime=Path("/run") / ("x" * 110)))


def _lines(argv: list[str]) -> str:
    """One option with its value a line."""
    text = argv[0]
    for word in argv[1:]:
        text += ("\n" if word.startswith("-") else " ") + word
    return text + "\n"
