"""Every TDCALL leaf and TDG.VP.VMCALL sub-function of the emulated TD, called by a bare guest.

The guest is `tdcall/`: a TDVF of 64 KiB that prints what each call gave. What it should have given is written
here from the TDX module's ABI specification and source, and for TDG.VP.VMCALL from the GHCI's and from KVM.

To run it alone, with a QEMU of one's own, set TDX_TEST_QEMU to the path of that.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

SOURCES = Path(__file__).parent / "tdcall"
SECONDS = 120

IMAGE_SIZE = 0x10000
IMAGE_BASE = (1 << 32) - IMAGE_SIZE
METADATA_OFFSET = 0xF800
FOOTER_GUID = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
OFFSET_GUID = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
BFV, CFV, TD_HOB, TEMP_MEM = range(4)

MODE_CALLS, MODE_FATAL, MODE_RACE, MODE_QUOTE, MODE_VIOLATION = range(5)
RACES = 200

MAC_KEY = bytes(range(32))
CPUSVN = bytes(range(16))
TEE_TCB_SVN = bytes([5, 3, *range(2, 16)])
MRSEAM = bytes([0x5E]) * 48
MRCONFIGID = bytes([0xC0]) * 48
MROWNER = bytes([0x0E]) * 48
MROWNERCONFIG = bytes([0x0C]) * 48

SUCCESS = 0
INVALID = 0xC0000100_00000000
RAX, RCX, RDX, R8 = 0, 1, 2, 8
NO_VALID_VE_INFO = 0xC0000704_00000000
PAGE_ALREADY_ACCEPTED = 0x00000B0A_00000000
PAGE_SIZE_MISMATCH = 0xC0000B0B_00000000
FIELD_ID_INCORRECT = 0xC0000C00_00000000
FIELD_NOT_WRITABLE = 0xC0000C01_00000000
FIELD_NOT_READABLE = 0xC0000C02_00000000
FIELD_VALUE_NOT_VALID = 0xC0000C03_00000000
FIRST_FIELD_ID = 0x00000C0B_00000000
INVALID_CPUSVN = 0xC0001000_00000000
INVALID_REPORTMACSTRUCT = 0xC0001001_00000000

VMCALL_INVALID_OPERAND = 1 << 63
VMCALL_ALIGN_ERROR = 1 << 63 | 2
VMCALL_UNSUPPORTED = 1 << 63 | 3
KVM_ENOSYS = (1 << 64) - 1000
QUOTE_ERROR = 1 << 63
QUOTE_UNAVAILABLE = 1 << 63 | 1

NO_FAULT, UD, GP, PF, VE = 0xFFFFFFFF, 6, 13, 14, 20
NULL_FIELD = (1 << 64) - 1


@dataclass(frozen=True)
class Section:
    """An entry of the TDVF metadata."""

    kind: int
    gpa: int
    size: int
    offset: int = 0
    length: int = 0
    attributes: int = 0

    def encode(self) -> bytes:
        return struct.pack(
            "<IIQQII", self.offset, self.length, self.gpa, self.size, self.kind, self.attributes
        )


SECTIONS = (
    Section(BFV, IMAGE_BASE, IMAGE_SIZE, 0, IMAGE_SIZE, 1),
    Section(TEMP_MEM, 0x810000, 0x10000),
    Section(TD_HOB, 0x809000, 0x2000),
    Section(TEMP_MEM, 0x800000, 0x6000),
    Section(TEMP_MEM, 0x900000, 0x20000),
)


@dataclass(frozen=True)
class Firmware:
    """The test firmware, and what a test may want wrong in it."""

    payload: bytes
    reset: bytes
    sections: Sequence[Section] = SECTIONS
    signature: bytes = b"TDVF"
    version: int = 1
    count: int | None = None
    length: int | None = None
    distance: int | None = None
    entry_length: int = 22
    table_length: int = 40
    footer: uuid.UUID = FOOTER_GUID
    entry: uuid.UUID = OFFSET_GUID

    def image(self, mode: int = MODE_CALLS, parameter: int = 0) -> bytes:
        """The firmware's bytes, to run in a mode of the payload's."""
        image = bytearray(IMAGE_SIZE)
        image[: len(self.payload)] = self.payload
        struct.pack_into("<QQ", image, 8, mode, parameter)
        image[-len(self.reset) :] = self.reset
        count = len(self.sections) if self.count is None else self.count
        length = 16 + 32 * len(self.sections) if self.length is None else self.length
        metadata = self.signature + struct.pack("<III", length, self.version, count)
        metadata += b"".join(section.encode() for section in self.sections)
        image[METADATA_OFFSET : METADATA_OFFSET + len(metadata)] = metadata
        distance = IMAGE_SIZE - METADATA_OFFSET if self.distance is None else self.distance
        table = struct.pack("<IH", distance & 0xFFFFFFFF, self.entry_length) + self.entry.bytes_le
        table += struct.pack("<H", self.table_length) + self.footer.bytes_le
        end = IMAGE_SIZE - 0x20
        image[end - len(table) : end] = table
        return bytes(image)


def mrtd(image: bytes) -> bytes:
    """MRTD as KVM builds it: each page is added, and extended, before the next."""
    digest = hashlib.sha384()
    for section in SECTIONS:
        data = image[section.offset : section.offset + section.length].ljust(section.size, b"\0")
        for page in range(0, section.size, 4096):
            digest.update(
                b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", section.gpa + page) + bytes(104)
            )
            if section.attributes & 1:
                for chunk in range(page, page + 4096, 256):
                    record = b"MR.EXTEND".ljust(16, b"\0") + struct.pack("<Q", section.gpa + chunk)
                    digest.update(record + bytes(104) + data[chunk : chunk + 256])
    return digest.digest()


def extended(data: bytes, times: int = 1) -> bytes:
    """An RTMR that had been zero."""
    value = bytes(48)
    for _ in range(times):
        value = hashlib.sha384(value + data).digest()
    return value


@pytest.fixture(scope="session")
def qemu(request: pytest.FixtureRequest) -> Path:
    """The emulator under test."""
    if own := os.environ.get("TDX_TEST_QEMU"):
        return Path(own)
    binary = request.getfixturevalue("emulator_binary")
    assert isinstance(binary, Path)
    return binary


@pytest.fixture(scope="session")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Firmware:
    """The test firmware, built from its sources."""
    if any(shutil.which(tool) is None for tool in ("gcc", "ld", "objcopy")):
        pytest.skip("gcc and binutils are needed to build the test guest")
    directory = tmp_path_factory.mktemp("tdcall")
    flags = ["-m64", "-O1", "-ffreestanding", "-fno-stack-protector", "-fPIE", "-fvisibility=hidden"]
    flags += [
        "-mno-red-zone",
        "-fcf-protection=none",
        "-fno-asynchronous-unwind-tables",
        "-mgeneral-regs-only",
    ]
    flags += ["-Wall", "-Wextra", "-Werror"]
    link = ["ld", "-m", "elf_x86_64", "-nostdlib", "-static", "-z", "noexecstack", "--no-warn-rwx-segments"]
    commands = [
        ["gcc", *flags, "-c", str(SOURCES / "payload.c"), "-o", "payload.o"],
        ["gcc", "-m64", "-c", str(SOURCES / "call.S"), "-o", "call.o"],
        ["gcc", "-m64", "-c", str(SOURCES / "reset.S"), "-o", "reset.o"],
        [*link, "-T", str(SOURCES / "payload.ld"), "call.o", "payload.o", "-o", "payload.elf"],
        [*link, "-Ttext=0xfffff000", "-e", "0", "reset.o", "-o", "reset.elf"],
        ["objcopy", "-O", "binary", "payload.elf", "payload.bin"],
        ["objcopy", "-O", "binary", "-j", ".text", "reset.elf", "reset.bin"],
    ]
    for command in commands:
        subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=SECONDS)
    payload = (directory / "payload.bin").read_bytes()
    reset = (directory / "reset.bin").read_bytes()
    assert len(payload) <= METADATA_OFFSET - 0x1000
    assert len(reset) == 0x1000
    return Firmware(payload, reset)


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


@dataclass
class Outcome:
    """What a run of the emulator left."""

    code: int
    lines: Sequence[str]
    errors: str
    events: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def values(self) -> dict[str, int]:
        """By leaf and case."""
        found: dict[str, int] = {}
        for line in self.lines:
            name, separator, value = line.partition(" got=0x")
            if separator and not name.endswith(" bytes"):
                assert name not in found, f"{name} was printed twice"
                found[name] = int(value, 16)
        return found

    def dumps(self, name: str) -> list[bytes]:
        prefix = f"{name} bytes got=0x"
        return [bytes.fromhex(line.removeprefix(prefix)) for line in self.lines if line.startswith(prefix)]

    def event(self, name: str) -> Mapping[str, Any]:
        found = [event["data"] for event in self.events if event["event"] == name]
        assert found, f"no event {name} in {self.events}"
        data = found[0]
        assert isinstance(data, dict)
        return data


class Machine:
    """A running emulator: its serial port goes to a file, its QMP to `events`."""

    def __init__(
        self,
        qemu: Path,
        image: bytes,
        directory: Path,
        properties: Mapping[str, object] | None = None,
        vcpus: int = 1,
    ) -> None:
        self.serial = directory / "serial"
        self.socket = directory / "qmp"
        bios = directory / "tdvf.fd"
        bios.write_bytes(image)
        guest = {"qom-type": "tdx-tcg-guest", "id": "tdx0", **(properties or {})}
        self.process = subprocess.Popen(
            [
                *(str(qemu), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(vcpus), "-m", "256M"),
                *("-nodefaults", "-display", "none", "-no-user-config", "-bios", str(bios), "-S"),
                *("-object", f"secret,id=mac0,format=base64,data={encoded(MAC_KEY)}"),
                *("-object", json.dumps(guest)),
                *("-machine", "q35,confidential-guest-support=tdx0"),
                *("-serial", f"file:{self.serial}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
                *("-qmp", f"unix:{self.socket},server=on,wait=off", "-action", "panic=shutdown"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.events: list[Mapping[str, Any]] = []

    def start(self) -> bool:
        """Let the vCPUs go; whether QEMU got that far."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.connection = socket.socket(socket.AF_UNIX)
                self.connection.settimeout(SECONDS)
                self.connection.connect(str(self.socket))
                self.stream = self.connection.makefile("r")
                self.stream.readline()
                self.execute("qmp_capabilities")
                self.execute("cont")
                return True
            time.sleep(0.02)
        return False

    def execute(self, command: str) -> None:
        self.connection.sendall(json.dumps({"execute": command}).encode() + b"\n")

    def finish(self) -> Outcome:
        """Wait for the end."""
        with contextlib.suppress(OSError, AttributeError):
            for line in self.stream:
                message = json.loads(line)
                if "event" in message:
                    self.events.append(message)
        try:
            errors, _ = self.process.communicate(timeout=SECONDS)
        finally:
            self.process.kill()
        text = self.serial.read_text(errors="replace") if self.serial.exists() else ""
        return Outcome(self.process.returncode, text.splitlines(), errors, self.events)


def run(
    qemu: Path,
    image: bytes,
    directory: Path,
    properties: Mapping[str, object] | None = None,
    vcpus: int = 1,
) -> Outcome:
    """Run a guest to its end."""
    machine = Machine(qemu, image, directory, properties, vcpus)
    machine.start()
    return machine.finish()


def expected_leaves() -> dict[str, int]:
    return {
        "none leaf-13": INVALID | RAX,
        "none leaf-65535": INVALID | RAX,
        "none reserved-24": INVALID | RAX,
        "none reserved-63": INVALID | RAX,
        "none version-1": INVALID | RAX,
        "vp.info ok": SUCCESS,
        "vp.info attributes": 1 << 28,
        "vp.info vcpus": 1 << 32 | 1,
        "vp.info index": 0,
        "vp.info sys-rd": 1,
        "vp.info reserved": 0,
        "vp.veinfo.get none": NO_VALID_VE_INFO,
        "vp.veinfo.get none-reason": 0,
        "vp.cpuidve.set reserved": INVALID | RCX,
        "vp.cpuidve.set off": SUCCESS,
        "vp.enter no-vm": INVALID | RCX,
        "vp.invept none": SUCCESS,
        "vp.invept l1": INVALID | RCX,
        "vp.invept l2": INVALID | RCX,
        "vp.invvpid no-vm": INVALID | RCX,
        "servtd.rd unbound": INVALID | RCX,
        "servtd.wr unbound": INVALID | RCX,
    }


def expected_measurements() -> dict[str, int]:
    wrong = dict.fromkeys(("misaligned", "shared", "beyond", "bit-63"), INVALID | RCX)
    return {
        "mr.rtmr.extend ok": SUCCESS,
        "mr.rtmr.extend index-4": INVALID | RDX,
        "mr.rtmr.extend index-max": INVALID | RDX,
        **{f"mr.rtmr.extend {case}": status for case, status in wrong.items()},
        "mr.report ok": SUCCESS,
        "mr.report misaligned-report": INVALID | RCX,
        "mr.report misaligned-data": INVALID | RDX,
        "mr.report subtype": INVALID | R8,
        "mr.report beyond-report": INVALID | RCX,
        "mr.report beyond-data": INVALID | RDX,
        "mr.verifyreport ok": SUCCESS,
        "mr.verifyreport misaligned": INVALID | RCX,
        "mr.verifyreport shared": INVALID | RCX,
        "mr.verifyreport mac": INVALID_REPORTMACSTRUCT,
        "mr.verifyreport reportdata": INVALID_REPORTMACSTRUCT,
        "mr.verifyreport cpusvn": INVALID_CPUSVN,
        "mr.verifyreport type": INVALID_REPORTMACSTRUCT,
    }


def expected_pages(tracked: bool) -> dict[str, int]:
    wrong = ("misaligned-2m", "level-2", "level-7", "reserved", "shared", "beyond")
    return {
        "mem.page.accept 4k": SUCCESS,
        "mem.page.accept 2m": SUCCESS,
        "mem.page.accept again-4k": PAGE_ALREADY_ACCEPTED if tracked else SUCCESS,
        "mem.page.accept again-2m": PAGE_ALREADY_ACCEPTED | 1 if tracked else SUCCESS,
        "mem.page.accept mixed-2m": PAGE_SIZE_MISMATCH | 1 if tracked else SUCCESS,
        **{f"mem.page.accept {case}": INVALID | RCX for case in wrong},
        "mem.page.attr.rd ok": SUCCESS,
        "mem.page.attr.rd mapping": 0x1000000,
        "mem.page.attr.rd attributes": 0,
        "mem.page.attr.rd shared": INVALID | RCX,
        "mem.page.attr.wr ok": SUCCESS,
        "mem.page.attr.wr l1": INVALID | RDX,
        "mem.page.attr.wr l2": INVALID | RDX,
        "mem.page.attr.wr flags": INVALID | R8,
        "mem.page.attr.wr level-3": INVALID | RCX,
        "mem.page.attr.wr shared": INVALID | RCX,
    }


def expected_fields(gpaw: int) -> dict[str, int]:
    good = {
        "vm.rd.attributes": 1 << 28,
        "vm.rd.gpaw": int(gpaw == 52),
        "vm.rd.config-flags": int(gpaw == 52),
        "vm.rd.max-vcpus": 1,
        "vm.rd.num-vcpus": 1,
        "vm.rd.td-ctls": 0,
        "vm.rd.topology": 1,
        "vm.rd.quote-max-size": 0x20000,
        "vm.wr.notify-enables-new": 1,
        "vp.rd.vcpu-index": 0,
        "vp.wr.user-ve-new": 1,
        "sys.rd.vendor-id": 0x8086,
        "sys.rd.major-version": 1,
    }
    bad = {
        "vm.rd.unknown": FIELD_ID_INCORRECT,
        "vm.rd.reserved": FIELD_ID_INCORRECT,
        "vm.rd.sequence": FIELD_ID_INCORRECT,
        "vm.rd.hkid": FIELD_NOT_READABLE,
        "vp.rd.unknown": FIELD_ID_INCORRECT,
        "sys.rd.unknown": FIELD_ID_INCORRECT,
    }
    expected = {f"{name} value": value for name, value in good.items()}
    expected |= {f"{name} status": SUCCESS for name in good}
    expected |= {f"{name} value": 0 for name in bad}
    expected |= {f"{name} status": status for name, status in bad.items()}
    return expected


def expected_metadata() -> dict[str, int]:
    return {
        "vm.rd vm-id": INVALID | RCX,
        "vm.rd version-2": INVALID | RAX,
        "vm.rd first": FIRST_FIELD_ID,
        "vm.rd next": SUCCESS,
        "vm.rd next-id": 0x1110000300000001,
        "vm.rd null-version-0": FIELD_ID_INCORRECT,
        "vm.wr notify-enables": SUCCESS,
        "vm.wr notify-enables-old": 0,
        "vm.wr read-only": FIELD_NOT_WRITABLE,
        "vm.wr no-mask": FIELD_NOT_WRITABLE,
        "vm.wr forbidden-bit": FIELD_VALUE_NOT_VALID,
        "vm.wr vm-id": INVALID | RCX,
        "vm.wr unknown": FIELD_ID_INCORRECT,
        "vm.wr enum-topology": SUCCESS,
        "vm.wr enum-topology-off": SUCCESS,
        "vp.rd rcx": INVALID | RCX,
        "vp.rd first": FIRST_FIELD_ID,
        "vp.wr user-ve": SUCCESS,
        "vp.wr user-ve-off": SUCCESS,
        "vp.wr read-only": FIELD_NOT_WRITABLE,
        "vp.wr rcx": INVALID | RCX,
        "sys.rd first": FIRST_FIELD_ID,
        "sys.rd first-readable": SUCCESS,
        "sys.rdall ok": SUCCESS,
        "sys.rdall next": NULL_FIELD,
        "sys.rdall some": 1,
        "sys.rdall misaligned": INVALID | RDX,
        "sys.rdall shared": INVALID | RDX,
        "sys.rdall unknown": FIELD_ID_INCORRECT,
    }


def expected_vmcalls() -> dict[str, int]:
    invalid = (
        "vmcall.get-info 2",
        *(f"vmcall.io {case}" for case in ("size-3", "size-8", "direction-2", "port-65536")),
        *(f"vmcall.mmio {case}" for case in ("private", "size-3", "direction-2", "beyond")),
        *(f"vmcall.rdmsr {case}" for case in ("vmx-basic", "unknown", "beyond", "x2apic-reserved")),
        *(f"vmcall.wrmsr {case}" for case in ("apic-base", "efer", "unknown")),
        *(f"vmcall.map-gpa {case}" for case in ("empty", "wraps", "both", "beyond")),
        *(f"vmcall.event-notify {case}" for case in ("31", "256")),
        *(f"vmcall.get-quote {case}" for case in ("private", "empty", "too-big", "huge", "beyond")),
        *(f"vmcall.get-quote {case}" for case in ("version", "in-len")),
    )
    good: tuple[str, ...] = (
        "get-info 0",
        "get-info 1",
        "cpuid vmm",
        "io read",
        "mmio read",
        "rdmsr apic-base",
    )
    good += (
        "wrmsr x2apic-svr",
        "map-gpa shared",
        "map-gpa private",
        "event-notify 64",
        "get-quote no-service",
    )
    return {
        **{f"vp.vmcall rcx-{bit}": INVALID | RCX for bit in ("rax", "rcx", "rsp", "63")},
        "vp.vmcall rcx-none": SUCCESS,
        "vp.vmcall hypercall": KVM_ENOSYS,
        "vp.vmcall unknown": VMCALL_UNSUPPORTED,
        "vp.vmcall unknown-max": VMCALL_UNSUPPORTED,
        **dict.fromkeys((f"vmcall.{name}" for name in good), SUCCESS),
        **dict.fromkeys(invalid, VMCALL_INVALID_OPERAND),
        "vmcall.get-info 0-registers": 0,
        "vmcall.get-info 1-r11": 2,
        "vmcall.cpuid vmm-ebx": int.from_bytes(b"KVMK", "little"),
        "vmcall.rdmsr apic-base-value": 0xFEE00D00,
        "vmcall.map-gpa misaligned": VMCALL_ALIGN_ERROR,
        "vmcall.map-gpa misaligned-size": VMCALL_ALIGN_ERROR,
        "vmcall.get-quote misaligned": VMCALL_ALIGN_ERROR,
        "vmcall.get-quote misaligned-size": VMCALL_ALIGN_ERROR,
        "vmcall.get-quote no-service-status": QUOTE_UNAVAILABLE,
    }


def expected_native(ve: bool, gpaw: int) -> dict[str, int]:
    """Instructions; what would be #VE is, without `ve`, what a guest would have the VMM do."""
    exceptions = {
        **dict.fromkeys(("wrmsr vmx-basic", "rdmsr rtit-ctl", "rdmsr perf-global-ctrl", "rdmsr s-cet"), GP),
        **dict.fromkeys(("rdmsr tme-activate", "cr0 reserved-32", "cr0 pe", "cr0 nw", "cr3 beyond"), GP),
        **dict.fromkeys(("cr4 reserved-63", "cr4 pae", "rdpmc 0"), GP),
        **dict.fromkeys(("rdmsr arch-capabilities", "rdmsr efer", "wrmsr efer-same"), NO_FAULT),
        **dict.fromkeys(("cr0 same", "cr4 same"), NO_FAULT),
        **dict.fromkeys(("cpuid tdx", "cpuid last", "cpuid addresses"), NO_FAULT),
        "fetch shared": PF,
    }
    reflected = {
        "rdmsr vmx-basic": (GP, 31),
        "wrmsr efer-nxe": (GP, 32),
        "rdmsr mtrrcap": (NO_FAULT, 31),
        "wrmsr apic-base": (GP, 32),
        "cr0 ne": (GP, 28),
        "cr0 cd": (GP, 28),
        "cr4 mce": (GP, 28),
        "cr4 vmxe": (GP, 28),
        "cpuid thermal": (NO_FAULT, 10),
        "cpuid vmm": (NO_FAULT, 10),
        "cpuidve cpuid": (NO_FAULT, 10),
        "io in": (NO_FAULT, 30),
        "mmio ioapic": (NO_FAULT, 48),
        "hlt native": (NO_FAULT, 12),
    }
    expected = exceptions | {name: VE if ve else without for name, (without, _) in reflected.items()}
    expected |= {
        "rdmsr efer-value": 0xD01,
        "cpuid tdx-ebx": int.from_bytes(b"Inte", "little"),
        "cpuid last-eax": 0x23,
        "cpuid addresses-eax": 52 | 48 << 8 | gpaw << 16,
        "cpuidve on": SUCCESS,
        "cpuidve off": SUCCESS,
        "fetch shared-error": 0x19,
        "hlt self-ipi": NO_FAULT,
        "hlt vmcall": SUCCESS,
        "hlt delivered-early": 0,
        "hlt delivered": 1,
        "hlt native-interrupts": 1,
    }
    return expected


VE_DETAILS = {
    "rdmsr": (31, 0, 0, 2),
    "wrmsr": (32, 0, 0, 2),
    "cpuid": (10, 0, 0, 2),
    "cpuidve": (10, 0, 0, 2),
    "io": (30, 0x80 << 16 | 1 << 3, 0, 1),
    "hlt": (12, 0, 0, 1),
}


def lines_without_details(outcome: Outcome) -> Outcome:
    """#VE information is printed once for each; only the exceptions' own lines are unique."""
    return replace(outcome, lines=[line for line in outcome.lines if " ve-" not in line])


def details(outcome: Outcome, name: str) -> list[tuple[int, ...]]:
    """The #VE information that was printed under a name."""
    values = [int(line.split("got=0x")[1], 16) for line in outcome.lines if line.startswith(f"{name} ve-")]
    return [tuple(values[i : i + 4]) for i in range(0, len(values), 4)]


@pytest.mark.parametrize(
    ("ve", "sept", "gpaw"),
    [(False, "off", 48), (True, "off", 48), (False, "on", 48), (True, "on", 48), (True, "on", 52)],
)
def test_calls(qemu: Path, firmware: Firmware, tmp_path: Path, ve: bool, sept: str, gpaw: int) -> None:
    image = firmware.image(MODE_CALLS, int(sept == "on"))
    properties = {
        "ve": ve,
        "sept": sept,
        "gpaw": gpaw,
        "report-mac-key": "mac0",
        "mrseam": encoded(MRSEAM),
        "cpusvn": encoded(CPUSVN),
        "tee-tcb-svn": encoded(TEE_TCB_SVN),
        "mrconfigid": encoded(MRCONFIGID),
        "mrowner": encoded(MROWNER),
        "mrownerconfig": encoded(MROWNERCONFIG),
    }
    full = run(qemu, image, tmp_path, properties)
    outcome = lines_without_details(full)
    assert outcome.lines[-1:] == ["end of test"], f"{outcome.lines[-5:]} {outcome.errors}"
    assert outcome.code == 1, outcome.errors
    rtmr3 = extended(b"\x5a" * 48)
    expected = expected_leaves() | expected_measurements() | expected_pages(sept == "on")
    expected |= expected_fields(gpaw) | expected_metadata() | expected_vmcalls() | expected_native(ve, gpaw)
    expected["vp.info gpaw"] = gpaw
    if sept == "on":
        expected |= {
            "page accept": SUCCESS,
            "page accepted": 0,
            "page shared": 0,
            "page accept-again": SUCCESS,
            "page private-again": 0,
        }
    found = outcome.values
    # elements of these fields are printed under one name each
    different = {
        name: (f"{found[name]:#x}" if name in found else "missing", f"{value:#x}")
        for name, value in expected.items()
        if found.get(name) != value
    }
    assert not different, f"(found, expected): {different}"
    unknown = {name for name in found if name not in expected}
    assert not {name for name in unknown if not name.startswith(("vm.rd.mrtd", "vm.rd.rtmr3"))}
    assert measured(outcome, "vm.rd.mrtd") == mrtd(image)
    assert measured(outcome, "vm.rd.rtmr3") == rtmr3
    check_report(outcome.dumps("mr.report")[0], image, rtmr3)
    if ve:
        for name, detail in VE_DETAILS.items():
            assert set(details(full, name)) == {detail}, name
        assert [(reason, length) for reason, _, _, length in details(full, "cr4")] == [(28, 3), (28, 3)]
        qualification = 1 | 1 << 7 | 1 << 8
        assert details(full, "mmio") == [(48, qualification, 0xFEC00000 | 1 << (gpaw - 1), 0)]


def measured(outcome: Outcome, name: str) -> bytes:
    """A register of six fields."""
    return b"".join(outcome.values[f"{name}.{part} value"].to_bytes(8, "little") for part in range(6))


def check_report(report: bytes, image: bytes, rtmr3: bytes) -> None:
    """The TDREPORT, byte by byte."""
    mac, tcb, gap, info = report[:256], report[256:495], report[495:512], report[512:]
    assert mac[:16] == bytes([0x81]) + bytes(15)
    assert mac[16:32] == CPUSVN
    assert mac[32:80] == hashlib.sha384(tcb).digest()
    assert mac[80:128] == hashlib.sha384(info).digest()
    assert mac[128:192] == b"\xc3" * 64
    assert mac[192:224] == bytes(32)
    assert mac[224:] == hmac.new(MAC_KEY, mac[:224], "sha256").digest()
    assert tcb[:8] == struct.pack("<Q", 0x301FF)
    assert tcb[8:24] == TEE_TCB_SVN
    assert tcb[24:72] == MRSEAM
    assert tcb[72:128] == bytes(56)
    assert tcb[128:144] == TEE_TCB_SVN
    assert tcb[144:] == bytes(95)
    assert gap == bytes(17)
    assert info[:8] == struct.pack("<Q", 1 << 28)
    xfam = struct.unpack("<Q", info[8:16])[0]
    assert xfam & 0x1B == 3, "x87 and SSE, but not MPX"
    assert info[16:64] == mrtd(image)
    assert info[64:208] == MRCONFIGID + MROWNER + MROWNERCONFIG
    assert info[208:352] == bytes(144)
    assert info[352:400] == rtmr3
    assert info[400:] == bytes(112)


@pytest.mark.parametrize("code", [0, 1 << 63])
def test_fatal_error(qemu: Path, firmware: Firmware, tmp_path: Path, code: int) -> None:
    outcome = run(qemu, firmware.image(MODE_FATAL, code), tmp_path)
    assert "fatal returned" not in "".join(outcome.lines)
    fatal = outcome.event("TDX_TCG_FATAL_ERROR")
    assert fatal["error-code"] == code
    assert fatal["message"] == "12345678bcdefg?"
    assert fatal.get("gpa") == (0x12345000 | 1 << 47 if code else None)
    panicked = outcome.event("GUEST_PANICKED")
    assert panicked["action"] == "poweroff"
    if "info" in panicked:
        assert panicked["info"]["type"] == "tdx"
        assert panicked["info"]["message"] == "12345678bcdefg?"
        assert panicked["info"].get("gpa") == fatal.get("gpa")
    assert outcome.event("SHUTDOWN")["reason"] == "guest-panic"


def test_extending_is_atomic(qemu: Path, firmware: Firmware, tmp_path: Path) -> None:
    vcpus = 4
    outcome = run(qemu, firmware.image(MODE_RACE, vcpus), tmp_path, vcpus=vcpus)
    assert measured(outcome, "race.rtmr2") == extended(b"\x77" * 48, RACES * vcpus)


class QuoteService:
    """A QGS whose quotes are the request's last byte, again and again; or that does as it is told."""

    def __init__(self, path: Path, answers: bool = True, error: int = 0, delay: float = 0.2) -> None:
        self.requests: list[bytes] = []
        self.answers, self.error, self.delay = answers, error, delay
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            message = connection.recv(0x10000)
            self.requests.append(message)
            if not self.answers:
                return
            time.sleep(self.delay)
            quote = message[-1:] * 5000
            size = 24 + len(quote)
            response = struct.pack(">I", size) + struct.pack(
                "<HHIIIII", 1, 1, 1, size, self.error, 0, len(quote)
            )
            connection.sendall(response[:10])
            time.sleep(0.05)
            connection.sendall(response[10:] + quote)


@pytest.fixture
def service_path(tmp_path: Path) -> Iterator[Path]:
    """Short enough for a socket."""
    yield tmp_path / "qgs"


def quote_socket(path: Path) -> dict[str, object]:
    return {"quote-generation-socket": {"type": "unix", "path": str(path)}}


@pytest.mark.parametrize("sept", ["off", "on"])
def test_quotes(qemu: Path, firmware: Firmware, tmp_path: Path, service_path: Path, sept: str) -> None:
    service = QuoteService(service_path)
    properties = {"sept": sept, **quote_socket(service_path)}
    outcome = run(qemu, firmware.image(MODE_QUOTE), tmp_path, properties)
    found = outcome.values
    assert found["quote one"] == found["quote two"] == SUCCESS
    assert found["quote one-status"] == found["quote two-status"] == 0
    assert found["quote one-length"] == found["quote two-length"] == 5000
    assert outcome.dumps("quote.one") == [b"\x11" * 32]
    assert outcome.dumps("quote.two") == [b"\x22" * 32]
    assert found["quote notified"] == 1
    assert len(service.requests) == 2
    for request in service.requests:
        assert struct.unpack(">I", request[:4])[0] == len(request) - 4
        assert struct.unpack("<HHIIIII", request[4:28]) == (1, 1, 0, 1048, 0, 1024, 0)
        assert set(request[28:]) in ({0x11}, {0x22})


@pytest.mark.parametrize(
    ("answers", "error", "status"),
    [(True, 0x12001, QUOTE_ERROR), (False, 0, QUOTE_ERROR), (None, 0, QUOTE_UNAVAILABLE)],
    ids=["refused", "hangs-up", "absent"],
)
def test_no_quote(
    qemu: Path,
    firmware: Firmware,
    tmp_path: Path,
    service_path: Path,
    answers: bool | None,
    error: int,
    status: int,
) -> None:
    if answers is not None:
        QuoteService(service_path, answers, error)
    outcome = run(qemu, firmware.image(MODE_QUOTE), tmp_path, quote_socket(service_path))
    found = outcome.values
    assert found["quote one-status"] == found["quote two-status"] == status
    assert found["quote one-length"] == 0
    assert found["quote notified"] == 1


VIOLATIONS = (
    ("read", "pending", False),
    ("write", "private", True),
    ("write", "shared", False),
    ("accept", "shared", False),
)


@pytest.mark.parametrize("number", range(len(VIOLATIONS)))
@pytest.mark.parametrize("sept", ["on", "log"])
def test_violations(qemu: Path, firmware: Firmware, tmp_path: Path, number: int, sept: str) -> None:
    access, state, shared = VIOLATIONS[number]
    outcome = run(qemu, firmware.image(MODE_VIOLATION, number), tmp_path, {"sept": sept})
    event = outcome.event("TDX_TCG_VIOLATION")
    assert (event["access"], event["state"], event["shared"]) == (access, state, shared)
    assert event["gpa"] == (0x805000 if shared else 0x1800000)
    assert "rip" in event
    assert event["fatal"] == (sept == "on")
    if sept == "on":
        assert outcome.lines[-1] == "start of test"
        assert outcome.event("GUEST_PANICKED")["action"] == "poweroff"
        assert f"{access} of {state} page" in outcome.errors
    else:
        assert outcome.lines[-1] == "end of test"
        assert outcome.code == 1


def test_reset(qemu: Path, firmware: Firmware, tmp_path: Path) -> None:
    """A TD that is reset is built anew: the same report, though RTMRs had been extended."""
    machine = Machine(qemu, firmware.image(MODE_CALLS), tmp_path, {"report-mac-key": "mac0"})
    machine.start()
    deadline = time.monotonic() + SECONDS
    while "mr.verifyreport ok" not in (machine.serial.read_text() if machine.serial.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    machine.execute("system_reset")
    outcome = machine.finish()
    reports = outcome.dumps("mr.report")
    if len(reports) == 1:
        pytest.skip("the guest had ended before it could be reset")
    assert reports[0] == reports[1]


S = SECTIONS
MALFORMED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "no-table": ({"footer": uuid.UUID(int=0)}, "no table of GUIDs"),
    "table-length-0": ({"table_length": 0}, "bad length"),
    "table-length-max": ({"table_length": 0xFFFF}, "TDX_METADATA_OFFSET_GUID|bad length"),
    "entry-length-0": ({"entry_length": 0}, "bad length"),
    "entry-length-max": ({"entry_length": 0xFFFF}, "bad length"),
    "entry-length-short": ({"entry_length": 18}, "bad length"),
    "no-entry": ({"entry": uuid.UUID(int=1)}, "TDX_METADATA_OFFSET_GUID"),
    "offset-0": ({"distance": 0}, "outside the firmware"),
    "offset-max": ({"distance": 0xFFFFFFFF}, "outside the firmware"),
    "offset-beyond": ({"distance": IMAGE_SIZE + 16}, "outside the firmware"),
    "offset-wrong": ({"distance": IMAGE_SIZE}, "Invalid TDVF signature"),
    "signature": ({"signature": b"XXXX"}, "Invalid TDVF signature"),
    "version": ({"version": 2}, "version 2"),
    "count-0": ({"count": 0}, "Invalid number of fw entries"),
    "count-max": ({"count": 0xFFFFFFFF}, "Invalid number of fw entries"),
    "count-more": ({"count": 6}, "mismatch"),
    "length": ({"length": 0xFFFFFFFF}, "mismatch"),
    "type": ({"sections": (*S, Section(9, 0xA00000, 0x1000))}, "unsupported type 9"),
    "attributes": (
        {"sections": (*S, Section(TEMP_MEM, 0xA00000, 0x1000, attributes=4))},
        "unknown attributes",
    ),
    "misaligned": ({"sections": (*S, Section(TEMP_MEM, 0xA00800, 0x1000))}, "not page aligned"),
    "misaligned-size": ({"sections": (*S, Section(TEMP_MEM, 0xA00000, 0x800))}, "not page aligned"),
    "empty": ({"sections": (*S, Section(TEMP_MEM, 0xA00000, 0))}, "not page aligned, or zero"),
    "huge": ({"sections": (*S, Section(TEMP_MEM, 1 << 33, 1 << 46))}, "not in RAM"),
    "wraps": ({"sections": (*S, Section(TEMP_MEM, 0xA00000, 0xFFFFFFFFFFFFF000))}, "beyond private memory"),
    "shared": ({"sections": (*S, Section(TEMP_MEM, 1 << 47, 0x1000))}, "beyond private memory"),
    "not-ram": ({"sections": (*S, Section(TEMP_MEM, 0xF0000000, 0x1000))}, "not in RAM"),
    "overlap": ({"sections": (*S, Section(TEMP_MEM, 0x810000, 0x1000))}, "overlap"),
    "raw-too-big": ({"sections": (*S, Section(CFV, 0xA00000, 0x1000, 0, 0x2000))}, "exceeds MemoryDataSize"),
    "raw-outside": (
        {"sections": (*S, Section(CFV, 0xA00000, 0x1000, 0xFFFFFFFF, 0x1000))},
        "outside the firmware",
    ),
    "raw-empty": ({"sections": (*S, Section(CFV, 0xA00000, 0x1000))}, "RawDataSize == 0"),
    "raw-in-memory": ({"sections": (*S, Section(TEMP_MEM, 0xA00000, 0x1000, 0, 0x1000))}, "!= 0"),
    "no-bfv": ({"sections": S[1:]}, "needs a BFV"),
    "no-hob": ({"sections": (*S[:2], *S[3:])}, "TD_HOB"),
    "two-hobs": ({"sections": (*S, Section(TD_HOB, 0xA00000, 0x1000))}, "more than one TD_HOB"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_firmware(qemu: Path, firmware: Firmware, tmp_path: Path, case: str) -> None:
    changes, message = MALFORMED[case]
    outcome = run(qemu, replace(firmware, **changes).image(), tmp_path)
    assert outcome.code == 1, outcome.errors
    assert "cannot build the TD: " in outcome.errors
    assert any(part in outcome.errors for part in message.split("|")), outcome.errors


def test_firmware_that_is_none(qemu: Path, tmp_path: Path) -> None:
    outcome = run(qemu, bytes(IMAGE_SIZE), tmp_path)
    assert outcome.code == 1
    assert "it is not a TDVF" in outcome.errors


BAD_PROPERTIES: Sequence[tuple[Mapping[str, object], str]] = (
    ({"mrconfigid": encoded(b"abc")}, "'mrconfigid' sha384 digest was 3 bytes, expected 48 bytes"),
    ({"mrowner": "***"}, "Base64"),
    ({"mrseam": encoded(bytes(47))}, "'mrseam' sha384 digest was 47 bytes"),
    ({"cpusvn": encoded(bytes(17))}, "'cpusvn' SVN was 17 bytes, expected 16 bytes"),
    ({"gpaw": 47}, "'gpaw' must be 48 or 52"),
    ({"attributes": 1 << 5}, "unsupported TD attribute"),
    ({"sept": "maybe"}, "maybe"),
    ({"report-mac-key": "absent"}, "absent"),
)


@pytest.mark.parametrize(("properties", "message"), BAD_PROPERTIES)
def test_bad_property(
    qemu: Path, firmware: Firmware, tmp_path: Path, properties: Mapping[str, Any], message: str
) -> None:
    outcome = run(qemu, firmware.image(), tmp_path, properties)
    assert outcome.code == 1
    assert message in outcome.errors
