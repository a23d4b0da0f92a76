"""Boot loaders in combinations that the matrix of predictions has not."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

from tdxstack.cli.edge import surroundings
from tdxstack.firmware.contents import open_contents
from tdxstack.image.disk import Tools, assemble, convert
from tdxstack.image.recipe import Format
from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.measurement.firmware_boot import IMAGE_SECURITY_DATABASE
from tdxstack.measurement.pe import Image
from tdxstack.testing.runner import Tdx
from tdxstack.toolbox.apt import extract
from tdxstack.workflows.workshop import Workshop
from tests.e2e.test_predict import prediction_and_log, unified_kernel, with_database
from tests.unit.measurement.comparison.logs import signature_list

SHIM = ("shim-signed", "usr/lib/shim/shimx64.efi.signed")
SYSTEMD_BOOT = ("systemd-boot-efi-amd64-signed", "usr/lib/systemd/boot/efi/systemd-bootx64.efi.signed")
DISK_SIZE = 256 << 20


def packed(release: str, place: Path, package: str, path: str) -> bytes:
    """A file of a package of the distribution."""
    apt = Workshop(surroundings()).apt(attrgetter(release))
    root = extract(apt.fetch((package,), with_dependencies=False), place / f"{release}-{package}")
    return (root / path).read_bytes()


def disk_of(esp: Mapping[str, bytes], place: Path) -> Path:
    """A disk with these files on its EFI system partition."""
    work = place / "work"
    work.mkdir()
    with tarfile.open(place / "root.tar", "w"):
        pass
    tools, disk = Tools(Workshop(surroundings()).toolbox, 0), place / "made.qcow2"
    raw = assemble(tools, place / "root.tar", esp, work, size=DISK_SIZE)
    convert(tools, raw, disk, Format.QCOW2)
    return disk


def test_the_newest_systemd_boot_behind_shim(guest: DirectKernel, tdx: Tdx, tmp_path: Path) -> None:
    """It measures SMBIOS and its configuration; the kernel has two initrds of odd sizes; no Secure Boot."""
    assert guest.initrd is not None
    entry = f"linux //kernel\ninitrd first\ninitrd /second\noptions {guest.command_line}\n"
    initrd = guest.initrd.read_bytes()
    esp = {
        "EFI/BOOT/BOOTX64.EFI": packed("stable", tmp_path, *SHIM),
        "EFI/BOOT/grubx64.efi": packed("unstable", tmp_path, *SYSTEMD_BOOT),
        "loader/loader.conf": b"timeout 0\npreferred b*\n",
        "loader/entries/a.conf": b"linux /absent\n",
        "loader/entries/b+1-2.conf": entry.encode(),
        "loader/entries/c.conf": b"linux /kernel\n",
        "kernel": guest.kernel.read_bytes(),
        "first": initrd + b"\0",
        "second": initrd,
    }
    expected, found = prediction_and_log(None, tdx, tmp_path, 1024, 1, disk_of(esp, tmp_path))
    assert expected == found
    assert [(register, kind) for register, kind, _ in found].count(("rtmr1", "EV_IPL")) == 1


def test_a_unified_kernel_image_behind_systemd_boot_and_shim(
    guest: DirectKernel, tdx: Tdx, tmp_path: Path
) -> None:
    """Secure Boot is on; the firmware's db has the image's hash besides Microsoft's keys."""
    program = unified_kernel("stable", guest, guest.command_line, tmp_path)
    esp = {
        "EFI/BOOT/BOOTX64.EFI": packed("stable", tmp_path, *SHIM),
        "EFI/BOOT/grubx64.efi": packed("stable", tmp_path, *SYSTEMD_BOOT),
        "EFI/Linux/guest+3.efi": program,
    }
    digest = signature_list(Image.parse(program).digest("sha256"))

    def allow(firmware: bytes) -> bytes:
        db = open_contents(firmware).variables[(IMAGE_SECURITY_DATABASE, "db")].data
        return with_database(firmware, db + digest)

    expected, found = prediction_and_log(None, tdx, tmp_path, 1024, 1, disk_of(esp, tmp_path), change=allow)
    assert expected == found
    # by the firmware's key, shim's level, shim's key for systemd-boot, and the hash in db
    assert [kind for _, kind, _ in found].count("EV_EFI_VARIABLE_AUTHORITY") == 4
