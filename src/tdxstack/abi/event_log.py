"""The TCG event log as TDVF, boot loaders and the kernel write it for a TD.

Sources: TCG PC Client Platform Firmware Profile 1.06, chapter 10 (event structures and types); UEFI
specification 2.11, section 38.2.3 (in a CC log the register index is that of a measurement register,
not of a PCR). All integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

MR_NAMES = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
"""Names by the register index of a TDX log: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3."""

ALG_SHA1 = 0x0004
ALG_SHA384 = 0x000C

SHA1_SIZE = 20
SHA384_SIZE = 48

EV_POST_CODE = 0x00000001
EV_NO_ACTION = 0x00000003
EV_SEPARATOR = 0x00000004
EV_ACTION = 0x00000005
EV_EVENT_TAG = 0x00000006
EV_S_CRTM_CONTENTS = 0x00000007
EV_S_CRTM_VERSION = 0x00000008
EV_PLATFORM_CONFIG_FLAGS = 0x0000000A
EV_COMPACT_HASH = 0x0000000C
EV_IPL = 0x0000000D
EV_NONHOST_INFO = 0x00000011
EV_POST_CODE2 = 0x00000013
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
EV_EFI_GPT_EVENT2 = 0x8000000D
EV_EFI_VARIABLE_AUTHORITY = 0x800000E0
EV_EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
EV_EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2
EV_EFI_SPDM_DEVICE_POLICY = 0x800000E3
EV_EFI_SPDM_DEVICE_AUTHORITY = 0x800000E4

EVENT_TYPE_NAMES = {
    0x00000000: "EV_PREBOOT_CERT",
    EV_POST_CODE: "EV_POST_CODE",
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
    EV_NONHOST_INFO: "EV_NONHOST_INFO",
    0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
    EV_POST_CODE2: "EV_POST_CODE2",
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
    EV_EFI_GPT_EVENT2: "EV_EFI_GPT_EVENT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    EV_EFI_VARIABLE_AUTHORITY: "EV_EFI_VARIABLE_AUTHORITY",
    EV_EFI_SPDM_FIRMWARE_BLOB: "EV_EFI_SPDM_FIRMWARE_BLOB",
    EV_EFI_SPDM_FIRMWARE_CONFIG: "EV_EFI_SPDM_FIRMWARE_CONFIG",
    EV_EFI_SPDM_DEVICE_POLICY: "EV_EFI_SPDM_DEVICE_POLICY",
    EV_EFI_SPDM_DEVICE_AUTHORITY: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

SPEC_ID_CRYPTO_AGILE = b"Spec ID Event03\0"
MAX_ALGORITHMS = 16
MAX_DIGESTS = 1 << 16
"""More than the smallest events of a log area of 1 MiB hold; keeps memory in proportion to the input."""

PADDING_BLOCK = 1 << 14
"""Bytes that are compared at once."""

_AGILE = struct.Struct("<IIIH")
_LEGACY = struct.Struct("<II20sI")
_SIZE = struct.Struct("<I")

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

    After the last event, the log area is filled up with `padding_size` bytes of `padding_byte`: none, 0xFF
    (edk2) or zero (td-shim).
    """

    spec_id: SpecId | None
    events: tuple[Event, ...]
    padding_size: int = 0
    padding_byte: int = 0xFF

    @classmethod
    def parse(cls, data: bytes | memoryview) -> EventLog:
        """Read a log up to its end: the end of `data`, or padding of 0xFF or zero bytes up to there.

        Raises `MalformedError`, which names the offset, on anything else.
        """
        raw = bytes(data)
        if not raw:
            raise MalformedError("event log: it is empty", hint=NOT_A_LOG)
        if _at_padding(raw, 0):
            raise MalformedError("event log: it holds padding and no event", hint=NOT_A_LOG)
        first, at = _legacy_event(raw, 0)
        if first.type == EV_NO_ACTION and first.data.startswith(SPEC_ID_CRYPTO_AGILE):
            spec_id = SpecId.parse(first)
            events, at = agile_events(raw, at, dict(spec_id.algorithms))
            return cls(spec_id, tuple(events), *_padding(raw, at))
        events = [first]
        while not _at_padding(raw, at):
            event, at = _legacy_event(raw, at)
            events.append(event)
            if len(events) > MAX_DIGESTS:
                raise _too_many(at)
        return cls(None, tuple(events), *_padding(raw, at))

    def to_bytes(self) -> bytes:
        """The log area: header, events and padding."""
        agile = self.spec_id is not None
        header = self.spec_id.to_bytes() if self.spec_id else b""
        padding = bytes((self.padding_byte,)) * self.padding_size
        return b"".join((header, *(event._to_bytes(agile) for event in self.events), padding))

    def without_padding(self) -> EventLog:
        """The same log, ending with its last event."""
        return EventLog(self.spec_id, self.events)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _at_padding(data: bytes, at: int) -> bool:
    """Whether no event can start here: the end, or register and type all ones, or a header all zero.

    An EV_NO_ACTION event may have the register index 0xFFFFFFFF, so that the index alone tells nothing.
    """
    head = data[at : at + 12]
    return head[:8] == b"\xff" * len(head[:8]) or not any(head)


def _padding(data: bytes, at: int) -> tuple[int, int]:
    """Size and byte of what is left of `data`, which must be one byte repeated."""
    if at == len(data):
        return 0, 0xFF
    block = data[at : at + 1] * PADDING_BLOCK
    end = at
    while data.startswith(block, end):
        end += PADDING_BLOCK
    if not block.startswith(data[end:]):
        raise MalformedError(
            f"event log: the padding from offset {at} on holds other bytes than 0x{data[at]:02x}",
            hint=DAMAGED,
        )
    return len(data) - at, data[at]


def _legacy_event(data: bytes, at: int) -> tuple[Event, int]:
    """The TCG_PCR_EVENT at `at`, and where it ends."""
    try:
        mr_index, kind, digest, size = _LEGACY.unpack_from(data, at)
        start = at + _LEGACY.size
        if size > len(data) - start:
            raise _cut_short(data, at, {})
    except struct.error:
        raise _cut_short(data, at, {}) from None
    return Event(mr_index, kind, ((ALG_SHA1, digest),), data[start : start + size]), start + size


def agile_events(data: bytes, at: int, sizes: dict[int, int]) -> tuple[list[Event], int]:
    """The TCG_PCR_EVENT2s from `at` to the end or to padding, and where they end.

    `sizes` are those of digests by algorithm. Raises `MalformedError`. One function, as it is what the time
    of a log is spent in.
    """
    events: list[Event] = []
    total = 0
    try:
        while at < len(data):
            mr_index, kind, number, algorithm = _AGILE.unpack_from(data, at)
            if not 0 < number <= len(sizes):
                if _at_padding(data, at):
                    break
                raise _bad_digests(at, f"{number} digests, 1 to {len(sizes)} are possible")
            total += number
            if total > MAX_DIGESTS:
                raise _too_many(at)
            start = at + _AGILE.size
            end = start + sizes[algorithm]
            digests: tuple[tuple[int, bytes], ...] = ((algorithm, data[start:end]),)
            for _ in range(number - 1):
                algorithm = data[end] | data[end + 1] << 8
                start = end + 2
                end = start + sizes[algorithm]
                digests += ((algorithm, data[start:end]),)
            start = end + _SIZE.size
            end = start + _SIZE.unpack_from(data, end)[0]
            if end > len(data):
                raise _cut_short(data, at, sizes)
            events.append(Event(mr_index, kind, digests, data[start:end]))
            at = end
    except KeyError as error:
        raise _bad_digests(at, f"a digest of algorithm 0x{error.args[0]:04x}") from None
    except (struct.error, IndexError):
        if not _at_padding(data, at):
            raise _cut_short(data, at, sizes) from None
    return events, at


def _too_many(at: int) -> MalformedError:
    return MalformedError(
        f"event log: more than {MAX_DIGESTS} digests up to offset {at}",
        hint="no firmware writes that many; the log is damaged",
    )


def _bad_digests(at: int, problem: str) -> MalformedError:
    return MalformedError(f"event log: the event at offset {at} has {problem}", hint=DAMAGED)


def _cut_short(data: bytes, at: int, sizes: dict[int, int]) -> MalformedError:
    """Which field of the event at `at` the data ends in. `sizes` is empty for a TCG_PCR_EVENT."""
    reader = Reader(data, "event log")
    try:
        reader.view(at, "events")
        reader.view(8, "register index and event type")
        if sizes:
            for _ in range(reader.u32("number of digests")):
                reader.view(sizes[reader.u16("digest algorithm")], "digest")
        else:
            reader.view(SHA1_SIZE, "SHA-1 digest")
        reader.view(reader.u32("event size"), "event data")
    except MalformedError as error:
        return error
    raise AssertionError("the event is whole")
