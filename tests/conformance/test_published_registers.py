"""Registers of real TDs, worked out by the models of the prediction instead of replayed from their logs.

Only what was hashed and is not public is taken from the log: the configuration volume, ACPI tables, kernel,
command line and initrd; and from Debian's firmware the configuration volume where Ubuntu's is not public. All
else must come out of memory size, Secure Boot state and release profile.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pytest

from tdxstack.abi import event_log, td_hob, tdvf
from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote, TdBody10
from tdxstack.firmware.contents import open_contents
from tdxstack.firmware.variables import SecureBoot
from tdxstack.measurement.boot_options import BuiltIn, boot_variables
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.expected import ExpectedEvent
from tdxstack.measurement.firmware_boot import (
    GLOBAL,
    POLICY_VARIABLES,
    FirmwareInputs,
    ready_to_boot_events,
    start_events,
)
from tdxstack.measurement.loader_boot import exit_events
from tdxstack.measurement.profile import PROFILES
from tdxstack.measurement.replay import extend
from tests.conformance import vectors
from tests.conformance.test_event_logs import GIB, LOGS, OVMF_MEMORY
from tests.conformance.vectors import FORTANIX, GO_EVENTLOG, PHALA, TRUSTEE

pytestmark = pytest.mark.vectors

FIRMWARE = "virtee+tdx/tests/data/OVMF.inteltdx.fd"
TWO_PASS_MRTD = (
    "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"
)


@dataclass(frozen=True)
class Boot:
    """A TD whose kernel QEMU gave; the size of its memory in GiB, and whether SecureBoot is built in."""

    log: str
    memory: int
    secure_boot: bytes


BOOTS = (
    Boot(TRUSTEE + "eventlog/test_data/CCEL_data_ovmf", 2, b""),
    Boot(GO_EVENTLOG + "eventlogs/ccel/CCEL_unpadded.data.bin", 8, b"\0"),
)
OPEN = [
    event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    *[event_log.EV_PLATFORM_CONFIG_FLAGS] * 3,
    event_log.EV_EFI_BOOT_SERVICES_APPLICATION,
]
"""Types of the events whose digests are taken from the log."""


def expected(boot: Boot) -> list[ExpectedEvent]:
    """All events in RTMR0 and RTMR1, by the profile that the log fits."""
    profile = next(one for one in PROFILES if one.name == "edk2-stable202405")
    contents = open_contents(vectors.read(FIRMWARE))
    assert isinstance(contents.menu, BuiltIn)
    sections = tuple(tdvf.Section(0, 0, address, size, kind, 0) for kind, address, size in OVMF_MEMORY)
    policy = [UefiVariable(GLOBAL, "SecureBoot", boot.secure_boot)]
    policy += [UefiVariable(vendor, name, b"") for vendor, name in POLICY_VARIABLES]
    inputs = FirmwareInputs(
        profile=profile,
        td_hob=td_hob.build(tdvf.Metadata(sections), boot.memory * GIB).measured(),
        configuration=b"not public",
        fw_cfg=(),
        policy=policy,
        acpi=[(name, b"not public") for name in ("loader", "rsdp", "tables")],
        smbios=None,
        boot_variables=boot_variables(contents.menu, None, [], []),
    )
    kernel = ExpectedEvent("rtmr1", event_log.EV_EFI_BOOT_SERVICES_APPLICATION, None, "kernel", "QEMU")
    return [*start_events(inputs), kernel, *ready_to_boot_events(inputs), *exit_events(retried=False)]


@pytest.mark.parametrize("boot", BOOTS, ids=lambda boot: boot.log.rpartition("/")[2])
def test_rtmr0_and_rtmr1_of_a_direct_boot(boot: Boot) -> None:
    logged = [event for event in EventLog.parse(vectors.read(boot.log)).events if event.mr_index in (1, 2)]
    predicted = expected(boot)
    assert [(one.register, one.type) for one in predicted] == [
        (event.mr_name.lower(), event.type) for event in logged
    ]
    unlike = [
        event.type for one, event in zip(predicted, logged, strict=True) if one.digest != event.digest()
    ]
    assert unlike == OPEN
    registers = {"rtmr0": bytes(48), "rtmr1": bytes(48)}
    for one, event in zip(predicted, logged, strict=True):
        digest = event.digest() if one.type in OPEN else one.digest
        assert digest is not None
        registers[one.register] = extend(registers[one.register], digest)
    for value, digits in zip(registers.values(), LOGS[boot.log][:2], strict=True):
        assert value.hex().startswith(digits)


EMPTY_VARIABLES = (
    "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
)
"""SHA-384 of the CFV of Debian's OVMF.fd 2025.02-8: a store without a variable, of a build of 4 MiB."""
LOADER_ENTRY, LOADER_SIZE, FILE_NAME = 128, 4096, 56
TABLES, RSDP = b"etc/acpi/tables", b"etc/acpi/rsdp"


def acpi_items(tables: bytes) -> list[tuple[str, bytes]]:
    """The three items that QEMU makes of ACPI tables (hw/acpi/bios-linker-loader.c, hw/i386/acpi-build.c)."""

    def entry(command: int, *fields: bytes) -> bytes:
        return b"".join((command.to_bytes(4, "little"), *fields)).ljust(LOADER_ENTRY, b"\0")

    def name(file: bytes) -> bytes:
        return file.ljust(FILE_NAME, b"\0")

    def word(value: int) -> bytes:
        return value.to_bytes(4, "little")

    def pointer(file: bytes, offset: int, size: int) -> bytes:
        return entry(2, name(file), name(TABLES), word(offset), bytes((size,)))

    def checksum(file: bytes, offset: int, start: int, size: int) -> bytes:
        return entry(3, name(file), word(offset), word(start), word(size))

    loader = entry(1, name(RSDP), word(16), b"\2") + entry(1, name(TABLES), word(64), b"\1")
    start, root = 0, 0
    while size := int.from_bytes(tables[start + 4 : start + 8], "little"):
        match tables[start : start + 4]:
            case b"FACP":
                loader += b"".join(
                    pointer(TABLES, start + at, width) for at, width in ((36, 4), (40, 4), (140, 8))
                )
            case b"RSDT":
                root = start
                loader += b"".join(pointer(TABLES, start + at, 4) for at in range(36, size, 4))
        if tables[start : start + 4] != b"FACS":
            loader += checksum(TABLES, start + 9, start, size)
        start += size
    loader += pointer(RSDP, 16, 4) + checksum(RSDP, 8, 0, 20)
    found = b"RSD PTR \0BOCHS \0" + word(root)
    return [("loader", loader.ljust(LOADER_SIZE, b"\0")), ("rsdp", found), ("tables", tables)]


@pytest.mark.parametrize(("machine", "memory"), [("canonical-defaults", 2), ("q35-with-hpet", 4)])
def test_rtmr0_as_another_project_computes_it(machine: str, memory: int) -> None:
    """Of Ubuntu's OVMF 2025.02, whose configuration volume and low memory are as in Debian's."""
    folder = f"{FORTANIX}{machine}/"
    contents = open_contents(vectors.read(FIRMWARE))
    places = [*OVMF_MEMORY[:2], (tdvf.TEMP_MEM, 0x811000, 0xF000), *OVMF_MEMORY[3:]]
    sections = tuple(tdvf.Section(0, 0, address, size, kind, 0) for kind, address, size in places)
    policy = [UefiVariable(vendor, name, b"") for vendor, name in ((GLOBAL, "SecureBoot"), *POLICY_VARIABLES)]
    inputs = FirmwareInputs(
        profile=next(one for one in PROFILES if one.name == "edk2-stable202502"),
        td_hob=td_hob.build(tdvf.Metadata(sections), memory * GIB).measured(),
        configuration=b"not here",
        fw_cfg=(),
        policy=policy,
        acpi=acpi_items(vectors.read(folder + "acpi_tables.bin")),
        smbios=None,
        boot_variables=boot_variables(contents.menu, None, [], []),
    )
    register = bytes(48)
    for event in (*start_events(inputs), *ready_to_boot_events(inputs)):
        if event.register == "rtmr0":
            known = event.type != event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2
            digest = event.digest if known else bytes.fromhex(EMPTY_VARIABLES)
            assert digest is not None
            register = extend(register, digest)
    assert register.hex() == json.loads(vectors.read(folder + "expected.json"))["rtmr0"]


def test_what_the_public_firmware_starts_with() -> None:
    """The index gives the digest of its configuration volume, and its sections in order."""
    contents = open_contents(vectors.read(FIRMWARE))
    assert contents.configuration is not None
    assert hashlib.sha384(contents.configuration).hexdigest().startswith("f8730217")
    assert contents.metadata is not None
    assert [(section.type, section.address) for section in contents.metadata.sections] == [
        (tdvf.BFV, 0xFFE20000),
        (tdvf.CFV, 0xFFE00000),
        (tdvf.TEMP_MEM, 0x810000),
        (tdvf.TEMP_MEM, 0x80B000),
        (tdvf.TD_HOB, 0x809000),
        (tdvf.TEMP_MEM, 0x800000),
    ]
    assert contents.metadata.sections[0].size == 0x1E0000
    assert contents.secure_boot is SecureBoot.SETUP


def test_the_published_two_pass_mrtd_is_that_of_the_quote() -> None:
    """Canonical's firmware itself is not public: its MRTD cannot be computed here."""
    body = Quote.parse(vectors.quote(PHALA + "sample/tdx_quote")).body
    assert isinstance(body, TdBody10)
    assert body.mrtd.hex() == TWO_PASS_MRTD
