"""Machines that differ in one thing: predicted as `tdx predict` does, compared as `tdx compare` does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tdxstack.machine.stopped import Launch
from tdxstack.measurement.comparison.cause import Cause
from tdxstack.measurement.comparison.compare import compare
from tdxstack.measurement.comparison.reading import read_side
from tdxstack.measurement.comparison.side import Side
from tdxstack.measurement.mrtd import mrtd
from tdxstack.prediction.boot import predict
from tdxstack.prediction.hardware import Hardware, PciFunction
from tdxstack.workflows.predict import PredictResult
from tests.unit.firmware import firmware_images, test_signatures
from tests.unit.measurement.test_shim import shim_program
from tests.unit.measurement.test_unified_kernel import unified_program
from tests.unit.prediction import disks
from tests.unit.prediction.test_boot import (
    CONFIG,
    HARDWARE,
    kernel,
    of_grub,
    of_systemd_boot,
    systemd_boot,
)

DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
TWO_DISKS = (PciFunction(1, 0, 0x1AF4, 0x1042), PciFunction(2, 0, 0x1AF4, 0x1042))
FIRST, SECOND = "/pci@i0cf8/scsi@1/disk@0,0", "/pci@i0cf8/scsi@2/disk@0,0"


@dataclass(frozen=True)
class Machine:
    """A machine that starts from a disk, or a kernel from QEMU where it is given one."""

    firmware: bytes = field(default_factory=firmware_images.firmware)
    hardware: Hardware = HARDWARE
    memory: int = 1024
    vcpus: int = 1
    esp: disks.Tree = field(default_factory=lambda: of_grub(CONFIG))
    root: disks.Tree = field(default_factory=lambda: {"vmlinuz": kernel(), "initrd": b"initrd"})
    kernel: bytes = b""
    initrd: bytes = b""
    command_line: str = ""


PLAIN = Machine()
DIRECT = Machine(kernel=kernel(), initrd=b"initrd", command_line="console=ttyS0 quiet")


def with_items(machine: Machine, **items: bytes) -> Machine:
    files = {**machine.hardware.files, **{name.replace("__", "/"): data for name, data in items.items()}}
    return replace(machine, hardware=replace(machine.hardware, files=files))


def predicted(machine: Machine, place: Path, name: str) -> Side:
    """The prediction of a machine, through the document that is printed."""
    place = place / name
    place.mkdir()
    options = ["-m", f"{machine.memory}M", "-smp", str(machine.vcpus), "-bios", "firmware.fd"]
    if machine.kernel:
        (place / "kernel").write_bytes(machine.kernel)
        (place / "initrd").write_bytes(machine.initrd)
        options += ["-kernel", str(place / "kernel"), "-append", machine.command_line]
        options += ["-initrd", str(place / "initrd")] if machine.initrd else []
    (place / "disk").write_bytes(disks.disk(machine.esp, machine.root))
    launch = Launch.parse(["qemu", *options])
    prediction = predict(launch, machine.firmware, machine.hardware, place / "disk")
    assert prediction.unpredicted == ()
    document = PredictResult(prediction, True, launch.firmware, launch, place / "disk").to_json()
    return read_side(name, json.dumps(document).encode())


def causes(a: Machine, b: Machine, place: Path) -> dict[str, Cause]:
    comparison = compare(predicted(a, place, "a"), predicted(b, place, "b"))
    assert comparison.unexplained_differences == ()
    assert comparison.unexplained_registers == ()
    assert len({cause.id for cause in comparison.causes}) == len(comparison.causes)
    return {cause.id: cause for cause in comparison.causes}


def with_database(*signers: test_signatures.Signer) -> bytes:
    db = firmware_images.variable("db", test_signatures.database(*signers), vendor=DATABASE)
    return firmware_images.firmware(variables=[db])


def of_release(version: str) -> bytes:
    """Firmware that says another release of edk2, and is the same otherwise."""
    return firmware_images.firmware(files=firmware_images.dxe_files(version))


def without_smbios() -> bytes:
    label = firmware_images.wide("SmbiosMeasurementDxe")
    return firmware_images.firmware(files=[file for file in firmware_images.dxe_files() if label not in file])


OLD_QEMU = replace(HARDWARE, kernel_setup=b"MZ" + bytes(0x3A) + kernel()[0x3C:0x210] + b"\xb0")
"""It writes the type of loader into the header, and offers no kernel without that."""
NEW_QEMU = replace(OLD_QEMU, named_kernel=True)
NAMED = firmware_images.firmware(
    files=[
        *firmware_images.dxe_files(),
        firmware_images.file("806040ca-dad9-4978-a3b4-2d2ab0c8a48f", code=b"etc/boot/kernel\0"),
    ]
)
"""Firmware that takes the kernel which QEMU names."""

FOUR_CPUS = {"etc__acpi__tables": b"tables for four", "etc__table-loader": b"loader for four"}

CHANGES = {
    "memory-size": (PLAIN, replace(PLAIN, memory=2048), {"memory-size"}),
    "vcpu-count": (PLAIN, replace(with_items(PLAIN, **FOUR_CPUS), vcpus=4), {"vcpu-count"}),
    "acpi-tables": (PLAIN, with_items(PLAIN, **FOUR_CPUS), {"acpi-tables"}),
    "smbios": (
        PLAIN,
        with_items(PLAIN, **{"etc__smbios__smbios-tables": b"\x01\x04\0\1\0\0\x7f\4\0\x7f\0\0"}),
        {"smbios"},
    ),
    "firmware-profile": (
        PLAIN,
        replace(PLAIN, firmware=without_smbios()),
        {"firmware-profile", "firmware-file"},
    ),
    "separator": (
        replace(PLAIN, firmware=of_release("2024.08")),
        replace(PLAIN, firmware=of_release("2024.11")),
        {"separator", "smbios", "firmware-file"},
    ),
    "kernel-header": (
        replace(DIRECT, firmware=NAMED, hardware=OLD_QEMU),
        replace(DIRECT, firmware=NAMED, hardware=NEW_QEMU),
        {"kernel-header"},
    ),
    "secure-boot-variable": (
        replace(PLAIN, firmware=with_database(test_signatures.ROOT)),
        replace(PLAIN, firmware=with_database(test_signatures.ROOT, test_signatures.OTHER)),
        {"secure-boot-variable", "variable-store"},
    ),
    "boot-order": (
        with_items(
            replace(PLAIN, hardware=replace(HARDWARE, functions=TWO_DISKS)),
            bootorder=f"{FIRST}\n{SECOND}\0".encode(),
        ),
        with_items(
            replace(PLAIN, hardware=replace(HARDWARE, functions=TWO_DISKS)),
            bootorder=f"{SECOND}\n{FIRST}\0".encode(),
        ),
        {"boot-order"},
    ),
    "kernel-command-line": (
        DIRECT,
        replace(DIRECT, command_line="console=ttyS0 debug"),
        {"kernel-command-line"},
    ),
    "kernel-command-line of GRUB": (
        PLAIN,
        replace(PLAIN, esp=of_grub(CONFIG.replace("quiet", "debug"))),
        {"kernel-command-line"},
    ),
    "kernel-command-line of systemd-boot": (
        replace(PLAIN, esp={"EFI": {"BOOT": {"BOOTX64.EFI": systemd_boot()}}, **of_systemd_boot(kernel())}),
        replace(
            PLAIN,
            esp={"EFI": {"BOOT": {"BOOTX64.EFI": systemd_boot()}}, **of_systemd_boot(kernel(), "debug")},
        ),
        {"kernel-command-line"},
    ),
    "initrd": (DIRECT, replace(DIRECT, initrd=b"another"), {"initrd"}),
    "initrd of GRUB": (
        PLAIN,
        replace(PLAIN, root={"vmlinuz": kernel(), "initrd": b"another"}),
        {"initrd"},
    ),
    "unmeasured-command-line": (
        DIRECT,
        replace(DIRECT, kernel=kernel("6.8.0")),
        {"unmeasured-command-line", "initrd", "boot-image"},
    ),
    "machine-owner-keys": (
        PLAIN,
        replace(PLAIN, esp=of_grub(CONFIG, shim_program(b"\x30another key"))),
        {"machine-owner-keys", "boot-image"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_of_a_machine_is_named(change: str, tmp_path: Path) -> None:
    a, b, expected = CHANGES[change]
    found = causes(a, b, tmp_path)
    assert set(found) == expected
    assert change.partition(" ")[0] in found


WORDS = {
    "memory-size": "different memory sizes: 1024 MiB and 2048 MiB",
    "vcpu-count": "different numbers of vCPUs: 1 and 4",
    "firmware-profile": "only one measures SMBIOS table",
    "kernel-header": "the same kernel",
    "secure-boot-variable": "variable db differs: only the second has certificate other, SHA-256",
    "boot-order": "options differ: order 0001, 0002, 0000 and 0002, 0001, 0000.",
    "kernel-command-line": "-quiet +debug",
    "kernel-command-line of GRUB": "-quiet +debug",
    "kernel-command-line of systemd-boot": "-quiet +debug",
    "unmeasured-command-line": "Only a has its kernel command line measured",
}


@pytest.mark.parametrize("change", WORDS)
def test_the_sentence_says_what_differs(change: str, tmp_path: Path) -> None:
    a, b, _ = CHANGES[change]
    assert WORDS[change] in causes(a, b, tmp_path)[change.partition(" ")[0]].sentence


def test_the_kernel_of_another_unified_image(tmp_path: Path) -> None:
    a = Machine(kernel=unified_program({".cmdline": b"quiet"}))
    b = Machine(kernel=unified_program({".cmdline": b"debug"}))
    found = compare(predicted(a, tmp_path, "a"), predicted(b, tmp_path, "b"))
    sentences = {cause.id: cause.sentence for cause in found.causes}
    assert set(sentences) == {"boot-image", "boot-loader-data", "kernel-command-line"}
    assert sentences["kernel-command-line"] == "The kernel command lines differ: -quiet +debug."


def test_a_vmm_that_adds_all_pages_first(tmp_path: Path) -> None:
    """Of the same firmware, it makes the other value."""
    known = predicted(PLAIN, tmp_path, "a")
    two_pass = mrtd(PLAIN.firmware).two_pass
    assert two_pass != known.registers["mrtd"]
    td = Side("td", "quote", {"mrtd": two_pass})
    (cause,) = compare(known, td).causes
    assert cause.id == "mrtd-two-pass"
