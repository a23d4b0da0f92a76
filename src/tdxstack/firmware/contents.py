"""What one firmware image is: its volumes, variables, release, and whether a TD can start with it.

The release is taken from what the image holds, not from its name: strings and files that came with a change
in edk2 show that the change is in. Sources: as `measurement.profile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from tdxstack.abi.tdvf import CFV, Metadata, parse_image
from tdxstack.errors import MalformedError
from tdxstack.firmware.variables import SecureBoot, Variables, secure_boot, variables
from tdxstack.firmware.volumes import File, Volume, volumes
from tdxstack.measurement.boot_options import SETUP_LABEL, SHELL_LABEL, BuiltIn
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.firmware_boot import GLOBAL, POLICY_VARIABLES, TIMESTAMP_DATABASE
from tdxstack.measurement.profile import PROFILES, Profile, Shown
from tdxstack.measurement.smbios import FirmwareStrings

ACPI_PLATFORM = UUID("17985e6f-e778-4d94-aefa-c5dd2b77e186")
BDS = UUID("6d33944a-ec75-4855-a54d-809c75241f6c")
BOOT_MENU = UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
FAT = UUID("961578fe-b6b7-44c3-af35-6bc705cd2b1f")
KERNEL_LOADER = UUID("806040ca-dad9-4978-a3b4-2d2ab0c8a48f")
SECURE_BOOT_CONFIG = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21")
SMBIOS_MEASUREMENT = UUID("d27fed59-abb4-4fed-bead-2a878c7e4a7e")
SMBIOS_PLATFORM = UUID("4110465d-5ff3-4f4b-b580-24ed0d06747a")
TD_MEASUREMENT = UUID("f062221e-c607-44c2-b0b4-c3886331d351")
SHELL = UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
UI_APP = UUID("462caa21-7614-4503-836e-8ab6f4662331")
TEXT_ALIGNMENT, FILLERS = 16, (2, 4)
UNNAMED_MENU = "Boot Manager Menu"

BEFORE_EXIT_EVENT = UUID("8be0e274-3970-4b44-80c5-1ab9502f3bfc")
SETUP_SUPPORT = b"opt/org.tianocore/FirmwareSetupSupport"
NAMED_BLOBS = b"etc/boot/"
INITRD_FIRST = b"initrd=initrd "
FW_CFG_EVENT = b"QEMU FW CFG"
ACPI_EVENT = b"ACPI DATA"

_RELEASE = re.compile(r"(20\d\d)[.-]?(02|03|05|08|11)\b")
_DATE = re.compile(r"\d\d/\d\d/\d{4}")
_WIDE_TEXT = re.compile(rb"(?:[\x20-\x7e]\0){3,}\0\0")
_PLACEHOLDERS = ("unknown", "02/02/2022", "0")
"""Texts in SmbiosPlatformDxe that stand in for strings which a build leaves empty."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A firmware image, taken apart.

    metadata: None where it has none, for the reason `metadata_problem`. profile: the one whose behaviour
    the image shows; `profile_exact` is False where the image says no release, so that it is the nearest.
    """

    image: bytes
    volumes: Sequence[Volume]
    metadata: Metadata | None
    metadata_problem: str
    variables: Variables
    secure_boot: SecureBoot
    strings: FirmwareStrings | None
    profile: Profile
    profile_exact: bool

    @property
    def boot_volume(self) -> Volume | None:
        """The volume that the boot manager is in; the others are not there in a TD."""
        return next((volume for volume in self.volumes if volume.file(BDS)), None)

    @property
    def configuration(self) -> bytes | None:
        """The raw bytes of the CFV, which a TDVF measures."""
        sections = self.metadata.of_type(CFV) if self.metadata else ()
        if not sections:
            return None
        return self.image[sections[0].data_offset :][: sections[0].data_size]

    @property
    def problems(self) -> list[str]:
        """Why no TD can start with it; empty where one can."""
        if self.metadata is None:
            return [self.metadata_problem]
        if self.boot_volume is None:
            return ["it holds no boot manager of edk2, so that nothing is known of what it starts"]
        return []

    @property
    def measures(self) -> bool:
        """Whether it logs what it does, and extends RTMRs; a TD may start without that."""
        return self.boot_volume is not None and self.boot_volume.file(TD_MEASUREMENT) is not None

    @property
    def policy(self) -> list[UefiVariable]:
        """The Secure Boot variables in the order in which they are measured."""
        value = {SecureBoot.UNSUPPORTED: b"", SecureBoot.ENABLED: b"\1"}.get(self.secure_boot, b"\0")
        state = UefiVariable(GLOBAL, "SecureBoot", value)
        found = [self.variables.get(key) or UefiVariable(*key, b"") for key in POLICY_VARIABLES]
        timestamps = self.variables.get(TIMESTAMP_DATABASE)
        return [state, *found, *([timestamps] if timestamps else [])]

    @property
    def menu(self) -> BuiltIn | None:
        """The boot manager's menu, where it lies in the boot manager's own volume."""
        volume = self.boot_volume
        anywhere = any(volume.file(BOOT_MENU) for volume in self.volumes)
        return _built_in(volume, BOOT_MENU if anywhere else UI_APP, None)

    @property
    def setup(self) -> BuiltIn | None:
        """The setup application, where it is a boot option besides the menu."""
        if not self.profile.shown.setup_option:
            return None
        menu = self.menu
        found = _built_in(self.boot_volume, UI_APP, SETUP_LABEL)
        return found if found and (menu is None or menu.file != found.file) else None

    @property
    def shell(self) -> BuiltIn | None:
        """The UEFI shell, where it is in the image: the last boot option.

        It is listed with applications since the release in which the setup application is.
        """
        found = _built_in(self.boot_volume, SHELL, SHELL_LABEL)
        return replace(found, listed=self.profile.shown.setup_option) if found else None


def open_contents(image: bytes) -> Contents:
    """Take an image apart. Raises `MalformedError` for one whose volumes or variables are broken."""
    found = volumes(image)
    if not found:
        raise MalformedError("the file holds no firmware volume", hint="give an OVMF or TDVF image")
    try:
        metadata, problem = parse_image(image), ""
    except MalformedError as error:
        metadata, problem = None, error.message
    files = {file.name: file for volume in found for file in volume.files}
    stored = variables(found)
    strings = _strings(files.get(SMBIOS_PLATFORM))
    profile, exact = _profile(files, strings)
    return Contents(
        image=image,
        volumes=found,
        metadata=metadata,
        metadata_problem=problem,
        variables=stored,
        secure_boot=secure_boot(stored, built_in=SECURE_BOOT_CONFIG in files),
        strings=strings,
        profile=profile,
        profile_exact=exact,
    )


def _profile(files: Mapping[UUID, File], strings: FirmwareStrings | None) -> tuple[Profile, bool]:
    """The profile that behaves as the image shows, and whether the image says which release it is."""
    bds = _code(files, BDS)
    shown = Shown(
        acpi=ACPI_EVENT in _code(files, ACPI_PLATFORM),
        fw_cfg=any(FW_CFG_EVENT in (file.code or b"") for file in files.values()),
        smbios=SMBIOS_MEASUREMENT in files,
        setup_option=SETUP_SUPPORT in bds,
        initrd_first=INITRD_FIRST in bds,
        named_kernel=NAMED_BLOBS in _code(files, KERNEL_LOADER),
        fat_flush=BEFORE_EXIT_EVENT.bytes_le in _code(files, FAT),
    )
    named = _named_release(strings)
    if named is not None:
        return replace(named, shown=shown), True
    nearest = [profile for profile in PROFILES if profile.shown <= shown]
    return replace(nearest[-1], shown=shown), False


def _named_release(strings: FirmwareStrings | None) -> Profile | None:
    found = _RELEASE.search(strings.version) if strings else None
    tag = f"edk2-stable{found[1]}{found[2]}" if found else ""
    return next((profile for profile in PROFILES if profile.name == tag), None)


def _strings(platform: File | None) -> FirmwareStrings | None:
    """The vendor, version and date in SmbiosPlatformDxe; None where there are others."""
    if platform is None or platform.code is None:
        return None
    texts = [_text(platform.code, *match.span()) for match in _WIDE_TEXT.finditer(platform.code)]
    own = [text for text in texts if text not in _PLACEHOLDERS]
    if len(own) != 3 or not _DATE.fullmatch(own[0]):
        return None
    date, version, vendor = own
    return FirmwareStrings(vendor, version, date)


def _text(code: bytes, start: int, end: int) -> str:
    """A text in UTF-16. Compilers align long ones, and fill up with instructions that may end as a letter."""
    aligned = -(-start // TEXT_ALIGNMENT) * TEXT_ALIGNMENT
    return code[aligned if aligned - start in FILLERS else start : end].decode("utf-16-le").rstrip("\0")


def _code(files: Mapping[UUID, File], name: UUID) -> bytes:
    file = files.get(name)
    return file.code or b"" if file else b""


def _built_in(volume: Volume | None, name: UUID, label: str | None) -> BuiltIn | None:
    """An application of a volume, called as it calls itself unless `label` says otherwise."""
    file = volume.file(name) if volume else None
    if volume is None or volume.name is None or file is None:
        return None
    return BuiltIn(volume.name, name, label or file.label or UNNAMED_MENU)
