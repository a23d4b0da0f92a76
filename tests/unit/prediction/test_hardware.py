"""What a stopped QEMU is asked, with a program in QEMU's place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.machine.stopped import Launch
from tdxstack.prediction.hardware import PciFunction, hardware
from tests.unit.prediction import fake_qemu


def launch(program: Path, *options: str) -> Launch:
    return Launch.parse([str(program), "-m", "1024M", "-smp", "1", "-bios", "firmware.fd", *options])


@pytest.fixture
def qemu(tmp_path: Path) -> Path:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {fake_qemu.__file__} 2>>{tmp_path}/programmed\n")
    program.chmod(0o755)
    return program


def test_items_devices_and_kernel_are_read(tmp_path: Path, qemu: Path) -> None:
    found = hardware(launch(qemu), tmp_path / "cache", confidential=True)
    assert found.files == {name: data for name, data in fake_qemu.ITEMS.items() if name != "opt/other"}
    assert (found.boot_menu, found.kernel_setup, found.named_kernel) == (b"\1\0", b"boot", False)
    assert PciFunction(1, 0, 0x1AF4, 0x1042) in found.functions
    assert PciFunction(31, 2, 0x8086, 0x2922) in found.functions
    assert found.td_cpu


def test_registers_are_programmed_as_edk2_does(tmp_path: Path, qemu: Path) -> None:
    hardware(launch(qemu), tmp_path / "cache", confidential=True)
    assert (tmp_path / "programmed").read_text().splitlines() == [
        "programmed (0, 0, 100) 0x0",
        "programmed (0, 0, 96) 0xe0000001",
        "programmed (31, 0, 64) 0x600",
        "programmed (31, 0, 68) 0x80",
        "programmed (1, 0, 32) 0x0",
        "programmed (1, 0, 36) 0x3800",
        "programmed (1, 0, 4) 0x7",
    ]


def test_the_same_question_is_asked_once(tmp_path: Path, qemu: Path) -> None:
    first = hardware(launch(qemu), tmp_path / "cache", confidential=True)
    text = qemu.read_text()
    before = qemu.stat()
    qemu.write_text("#!/bin/sh\nexit 1\n".ljust(len(text)))
    os.utime(qemu, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hardware(launch(qemu), tmp_path / "cache", confidential=True) == first
    with pytest.raises(CommandError):
        hardware(launch(qemu), tmp_path / "cache", confidential=False)
    os.utime(qemu)
    with pytest.raises(CommandError):
        hardware(launch(qemu), tmp_path / "cache", confidential=True)


def test_a_damaged_memory_of_the_answer_is_asked_again(tmp_path: Path, qemu: Path) -> None:
    first = hardware(launch(qemu), tmp_path / "cache", confidential=True)
    [remembered] = (tmp_path / "cache").iterdir()
    remembered.write_text("{}")
    assert hardware(launch(qemu), tmp_path / "cache", confidential=True) == first


def test_missing_files_are_named(tmp_path: Path, qemu: Path) -> None:
    with pytest.raises(UnavailableError, match="absent-kernel cannot be read"):
        hardware(launch(qemu, "-kernel", "/absent-kernel"), tmp_path / "cache", confidential=True)
