"""The TCG event log as TDVF, boot loaders and the kernel write it for a TD.

Sources: TCG PC Client Platform Firmware Profile 1.06, chapter 10 (event structures and types); UEFI
specification 2.11, section 38.2.3 (in a CC log the register index is that of a measurement register,
not of a PCR). All integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

MR_NAMES = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
"""Names by the register index of a TDX log: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3."""

ALG_SHA1 = 0x0004
ALG_SHA384 = 0x000C

SHA1_SIZE = 20
SHA384_SIZE = 48

EV_NO_ACTION = 0x00000003
EV_SEPARATOR = 0x00000004
EV_ACTION = 0x00000005
EV_EVENT_TAG = 0x00000006
EV_S_CRTM_CONTENTS = 0x00000007
EV_S_CRTM_VERSION = 0x00000008
EV_PLATFORM_CONFIG_FLAGS = 0x0000000A
EV_COMPACT_HASH = 0x0000000C
EV_IPL = 0x0000000D
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
EV_EFI_VARIABLE_BOOT = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
EV_EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
EV_EFI_GPT_EVENT = 0x80000006
EV_EFI_ACTION = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
EV_EFI_HANDOFF_TABLES = 0x80000009
EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
EV_EFI_HANDOFF_TABLES2 = 0x8000000B
EV_EFI_VARIABLE_BOOT2 = 0x8000000C
EV_EFI_VARIABLE_AUTHORITY = 0x800000E0

EVENT_TYPE_NAMES = {
    0x00000000: "EV_PREBOOT_CERT",
    0x00000001: "EV_POST_CODE",
    EV_NO_ACTION: "EV_NO_ACTION",
    EV_SEPARATOR: "EV_SEPARATOR",
    EV_ACTION: "EV_ACTION",
    EV_EVENT_TAG: "EV_EVENT_TAG",
    EV_S_CRTM_CONTENTS: "EV_S_CRTM_CONTENTS",
    EV_S_CRTM_VERSION: "EV_S_CRTM_VERSION",
    0x00000009: "EV_CPU_MICROCODE",
    EV_PLATFORM_CONFIG_FLAGS: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000000B: "EV_TABLE_OF_DEVICES",
    EV_COMPACT_HASH: "EV_COMPACT_HASH",
    EV_IPL: "EV_IPL",
    0x0000000E: "EV_IPL_PARTITION_DATA",
    0x0000000F: "EV_NONHOST_CODE",
    0x00000010: "EV_NONHOST_CONFIG",
    0x00000011: "EV_NONHOST_INFO",
    0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x00000013: "EV_POST_CODE2",
    EV_EFI_VARIABLE_DRIVER_CONFIG: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    EV_EFI_VARIABLE_BOOT: "EV_EFI_VARIABLE_BOOT",
    EV_EFI_BOOT_SERVICES_APPLICATION: "EV_EFI_BOOT_SERVICES_APPLICATION",
    EV_EFI_BOOT_SERVICES_DRIVER: "EV_EFI_BOOT_SERVICES_DRIVER",
    EV_EFI_RUNTIME_SERVICES_DRIVER: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    EV_EFI_GPT_EVENT: "EV_EFI_GPT_EVENT",
    EV_EFI_ACTION: "EV_EFI_ACTION",
    EV_EFI_PLATFORM_FIRMWARE_BLOB: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    EV_EFI_HANDOFF_TABLES: "EV_EFI_HANDOFF_TABLES",
    EV_EFI_PLATFORM_FIRMWARE_BLOB2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    EV_EFI_HANDOFF_TABLES2: "EV_EFI_HANDOFF_TABLES2",
    EV_EFI_VARIABLE_BOOT2: "EV_EFI_VARIABLE_BOOT2",
    0x8000000D: "EV_EFI_GPT_EVENT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    EV_EFI_VARIABLE_AUTHORITY: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
    0x800000E3: "EV_EFI_SPDM_DEVICE_POLICY",
    0x800000E4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

SPEC_ID_CRYPTO_AGILE = b"Spec ID Event03\0"
MAX_ALGORITHMS = 16

DAMAGED = "the log is damaged"
NOT_A_LOG = "give the CCEL log area (/sys/firmware/acpi/tables/data/CCEL), from its first byte"


@dataclass(frozen=True, slots=True)
class Event:
    """One measurement: a TCG_PCR_EVENT2 (or, in a legacy log, a TCG_PCR_EVENT).

    | size | field                                                             |
    |------|-------------------------------------------------------------------|
    | 4    | register index (see `MR_NAMES`)                                   |
    | 4    | event type (EV_...)                                               |
    | 4    | number of digests; absent in a legacy log                         |
    | n    | each digest: 2 bytes algorithm id, then the digest (legacy: one   |
    |      | SHA-1 digest without the id)                                      |
    | 4    | size of the data                                                  |
    | n    | the data                                                          |
    """

    mr_index: int
    type: int
    digests: tuple[tuple[int, bytes], ...]
    data: bytes

    @property
    def type_name(self) -> str:
        """The specification's name of the type, or its value in hexadecimal."""
        return EVENT_TYPE_NAMES.get(self.type, f"0x{self.type:08x}")

    @property
    def mr_name(self) -> str:
        """RTMR0 to RTMR3 or MRTD; the bare index where it names no register."""
        return MR_NAMES[self.mr_index] if self.mr_index < len(MR_NAMES) else f"MR {self.mr_index}"

    @property
    def extends(self) -> bool:
        """Whether the event was extended into a register. EV_NO_ACTION only informs."""
        return self.type != EV_NO_ACTION

    def digest(self, algorithm: int = ALG_SHA384) -> bytes | None:
        """The digest of one algorithm, or None where the event has none."""
        return next((digest for name, digest in self.digests if name == algorithm), None)

    def _to_bytes(self, agile: bool) -> bytes:
        parts = [_u32(self.mr_index), _u32(self.type)]
        if agile:
            parts.append(_u32(len(self.digests)))
            parts += [name.to_bytes(2, "little") + digest for name, digest in self.digests]
        else:
            parts.append(self.digests[0][1])
        return b"".join((*parts, _u32(len(self.data)), self.data))


@dataclass(frozen=True, slots=True)
class SpecId:
    """The first event of a crypto-agile log: TCG_PCR_EVENT with a TCG_EfiSpecIDEvent inside.

    | size  | field                                                                       |
    |-------|-----------------------------------------------------------------------------|
    | 4     | register index                                                              |
    | 4     | event type, EV_NO_ACTION                                                    |
    | 20    | SHA-1 digest, zero                                                          |
    | 4     | size of what follows                                                        |
    | 16    | "Spec ID Event03" and a zero                                                |
    | 4     | platform class                                                              |
    | 1,1,1 | minor, major and errata of the specification                                |
    | 1     | size of UINTN: 1 is 4 bytes, 2 is 8 bytes                                   |
    | 4     | number of algorithms, then for each 2 bytes id and 2 bytes digest size      |
    | 1     | size of the vendor information, then its bytes                              |
    """

    mr_index: int
    digest: bytes
    platform_class: int
    minor: int
    major: int
    errata: int
    uintn_size: int
    algorithms: tuple[tuple[int, int], ...]
    vendor_info: bytes

    @classmethod
    def parse(cls, event: Event) -> SpecId:
        """Read the header out of the log's first event. Raises `MalformedError`."""
        reader = Reader(event.data, "event log header")
        reader.take(len(SPEC_ID_CRYPTO_AGILE), "signature")
        platform_class = reader.u32("platform class")
        minor, major, errata, uintn_size = reader.take(4, "version")
        count = reader.u32("number of algorithms")
        if not 0 < count <= MAX_ALGORITHMS:
            raise MalformedError(
                f"event log header: {count} algorithms, expected 1 to {MAX_ALGORITHMS}", hint=NOT_A_LOG
            )
        algorithms = tuple((reader.u16("algorithm"), reader.u16("digest size")) for _ in range(count))
        if len({name for name, _ in algorithms}) != count:
            raise MalformedError("event log header: it names an algorithm twice", hint=NOT_A_LOG)
        vendor_info = reader.take(reader.u8("vendor information size"), "vendor information")
        reader.end()
        return cls(
            event.mr_index,
            event.digests[0][1],
            platform_class,
            minor,
            major,
            errata,
            uintn_size,
            algorithms,
            vendor_info,
        )

    def to_bytes(self) -> bytes:
        """The event as it stands at the front of the log."""
        data = b"".join(
            (
                SPEC_ID_CRYPTO_AGILE,
                _u32(self.platform_class),
                bytes((self.minor, self.major, self.errata, self.uintn_size)),
                _u32(len(self.algorithms)),
                *(name.to_bytes(2, "little") + size.to_bytes(2, "little") for name, size in self.algorithms),
                bytes((len(self.vendor_info),)),
                self.vendor_info,
            )
        )
        return Event(self.mr_index, EV_NO_ACTION, ((ALG_SHA1, self.digest),), data)._to_bytes(agile=False)


@dataclass(frozen=True, slots=True)
class EventLog:
    """A whole log. `spec_id` is None for a legacy SHA-1 log, which no TD writes but other machines do.

    `padding` is what follows the last event in the log area: nothing, 0xFF bytes (edk2) or zeros (td-shim).
    """

    spec_id: SpecId | None
    events: tuple[Event, ...]
    padding: bytes = b""

    @classmethod
    def parse(cls, data: bytes | memoryview) -> EventLog:
        """Read a log up to its end: the end of `data`, or padding of 0xFF or zero bytes up to there.

        Raises `MalformedError`, which names the offset, on anything else.
        """
        reader = Reader(data, "event log")
        if not reader.remaining:
            raise MalformedError("event log: it is empty", hint=NOT_A_LOG)
        spec_id, events = None, []
        if not _at_padding(reader):
            first = _legacy_event(reader)
            if first.type == EV_NO_ACTION and first.data.startswith(SPEC_ID_CRYPTO_AGILE):
                spec_id = SpecId.parse(first)
            else:
                events.append(first)
        sizes = dict(spec_id.algorithms) if spec_id else {}
        while not _at_padding(reader):
            events.append(_agile_event(reader, sizes) if spec_id else _legacy_event(reader))
        if spec_id is None and not events:
            raise MalformedError("event log: it holds padding and no event", hint=NOT_A_LOG)
        return cls(spec_id, tuple(events), _padding(reader))

    def to_bytes(self) -> bytes:
        """The log area: header, events and padding."""
        agile = self.spec_id is not None
        header = self.spec_id.to_bytes() if self.spec_id else b""
        return b"".join((header, *(event._to_bytes(agile) for event in self.events), self.padding))

    def without_padding(self) -> EventLog:
        """The same log, ending with its last event."""
        return EventLog(self.spec_id, self.events)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _at_padding(reader: Reader) -> bool:
    """Whether no event can start here: the end, or register and type all ones, or a header all zero.

    An EV_NO_ACTION event may have the register index 0xFFFFFFFF, so that the index alone tells nothing.
    """
    head = reader.peek(12)
    return head[:8] == b"\xff" * len(head[:8]) or not any(head)


def _padding(reader: Reader) -> bytes:
    offset, padding = reader.offset, reader.rest()
    if padding != padding[:1] * len(padding):
        raise MalformedError(
            f"event log: the padding from offset {offset} on holds other bytes than 0x{padding[0]:02x}",
            hint=DAMAGED,
        )
    return padding


def _legacy_event(reader: Reader) -> Event:
    """A TCG_PCR_EVENT."""
    mr_index, kind = reader.u32("register index"), reader.u32("event type")
    digest = reader.take(SHA1_SIZE, "SHA-1 digest")
    data = reader.take(reader.u32("event size"), "event data")
    return Event(mr_index, kind, ((ALG_SHA1, digest),), data)


def _agile_event(reader: Reader, sizes: dict[int, int]) -> Event:
    """A TCG_PCR_EVENT2 whose digests have the sizes that the log's header gives."""
    offset = reader.offset
    mr_index, kind = reader.u32("register index"), reader.u32("event type")
    count = reader.u32("number of digests")
    if not 0 < count <= len(sizes):
        raise MalformedError(
            f"event log: the event at offset {offset} has {count} digests, 1 to {len(sizes)} are possible",
            hint=DAMAGED,
        )
    digests = []
    for _ in range(count):
        algorithm = reader.u16("digest algorithm")
        if algorithm not in sizes:
            raise MalformedError(
                f"event log: the event at offset {offset} has a digest of algorithm 0x{algorithm:04x}",
                hint=DAMAGED,
            )
        digests.append((algorithm, reader.take(sizes[algorithm], "digest")))
    data = reader.take(reader.u32("event size"), "event data")
    return Event(mr_index, kind, tuple(digests), data)
