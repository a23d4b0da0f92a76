"""EFI programs of a disk: what each is, who signed it, and by whose keys it would start."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tdxstack.errors import MalformedError
from tdxstack.firmware.signatures import authority, signers
from tdxstack.measurement.loader_boot import kernel_release
from tdxstack.measurement.pe import Image
from tdxstack.measurement.shim import Shim
from tdxstack.measurement.signature_list import subject_name
from tdxstack.measurement.unified_kernel import LINUX, systemd_boot_version
from tdxstack.prediction.disk_boot import GRUB_MODULES
from tdxstack.prediction.keys import mok_list

SHIM, GRUB, SYSTEMD_BOOT = "shim", "GRUB", "systemd-boot"
UNIFIED_KERNEL, KERNEL, OTHER = "unified kernel image", "kernel", "EFI program"
"""Kinds of programs."""

SBAT = ".sbat"
RELEASE = ".uname"
_SBAT_VERSION = 4
"""Column of a component's version in its SBAT entry (github.com/rhboot/shim, SBAT.md)."""
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,64}")


@dataclass(frozen=True, slots=True)
class KeyList:
    """Keys that can let programs start: a list as in db, and one of what may not start, as in dbx."""

    allowed: bytes
    revoked: bytes = b""


@dataclass(frozen=True, slots=True)
class Program:
    """One EFI program, as far as the `problem` with it lets it be described.

    `signed_by` are the subjects of those who signed it. `accepted_by` has for each list of keys that would
    let it start the entry that does. `digest` is the Authenticode digest (SHA-256, hex).
    """

    path: str
    kind: str = OTHER
    version: str = ""
    digest: str = ""
    signed_by: Sequence[str] = ()
    accepted_by: Mapping[str, str] | None = None
    problem: str = ""


def describe_program(path: str, data: bytes, lists: Mapping[str, KeyList]) -> Program:
    """What a program is, and which of the `lists` of keys, by name, let it start. Raises nothing."""
    found = Program(path)
    try:
        image = Image.parse(data)
        kind, version = _kind(image)
        digest = image.digest("sha256").hex()
        found = replace(found, kind=kind, version=version, digest=digest)
        found = replace(found, signed_by=[subject_name(der) for der in signers(image)])
        accepted = {name: key for name, keys in lists.items() if (key := _acceptance(image, keys))}
        return replace(found, accepted_by=accepted)
    except MalformedError as error:
        return replace(found, problem=error.message)


def shim_keys(data: bytes, firmware_revoked: bytes = b"") -> KeyList | None:
    """The keys by which a shim lets programs start besides the firmware's; None for another program.

    `firmware_revoked` is the firmware's dbx, which counts for shim too. A broken shim has none.
    """
    try:
        shim = Shim.parse(Image.parse(data))
    except MalformedError:
        return None
    return KeyList(mok_list(shim), firmware_revoked + shim.vendor_revocations) if shim else None


def _acceptance(image: Image, keys: KeyList) -> str:
    """Who lets a program start; "" for nobody."""
    entry = authority(image, keys.allowed, keys.revoked)
    if entry is None:
        return ""
    return subject_name(entry.data) or f"its digest {entry.data.hex()}"


def _kind(image: Image) -> tuple[str, str]:
    if image.section(LINUX) is not None:
        return UNIFIED_KERNEL, _text(image.section(RELEASE)) or _release(image.section(LINUX))
    if Shim.parse(image) is not None:
        return SHIM, _sbat_version(image)
    if image.section(GRUB_MODULES) is not None:
        return GRUB, _sbat_version(image)
    version = systemd_boot_version(image)
    if version is not None:
        return SYSTEMD_BOOT, str(version)
    release = kernel_release(image.data)
    return (KERNEL, release) if release else (OTHER, _sbat_version(image))


def _sbat_version(image: Image) -> str:
    """The version in the last entry of SBAT, which is the distribution's where it made the program."""
    lines = (image.section(SBAT) or b"").rstrip(b"\0").decode("latin-1").splitlines()
    columns = next((line.split(",") for line in reversed(lines) if line.count(",") >= _SBAT_VERSION), [])
    return _text(columns[_SBAT_VERSION].encode("latin-1")) if columns else ""


def _release(kernel: bytes | None) -> str:
    return kernel_release(kernel or b"") or ""


def _text(data: bytes | None) -> str:
    """A short text without blanks; "" for another one."""
    text = (data or b"").rstrip(b"\0\n").decode("latin-1")
    return text if _PRINTABLE.fullmatch(text) else ""
