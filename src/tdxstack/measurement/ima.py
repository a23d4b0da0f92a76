"""IMA's measurements: replayed into the register that they extend, and in words.

Sources: Linux `security/integrity/ima/ima_queue.c` (what is extended), `security/integrity/integrity.h`
(signatures and digests in extended attributes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from tdxstack.abi.event_log import SHA384_SIZE
from tdxstack.abi.ima_log import ImaEntry
from tdxstack.errors import MalformedError
from tdxstack.measurement.replay import RTMR_COUNT, Rtmrs, extend
from tdxstack.measurement.text import printable

ALGORITHM_OF_SIZE = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
SIZE_OF_ALGORITHM = {name: size for size, name in ALGORITHM_OF_SIZE.items()}

PCR_RTMR2 = range(8, 16)
"""The PCRs that firmware and boot loaders map to RTMR2 (UEFI specification 2.11, section 38.4.1)."""

MAX_MISMATCHES = 10

DIGITAL_SIGNATURES = {3: "signed", 6: "fs-verity digest signed"}
"""By the type of the extended attribute, EVM_IMA_XATTR_DIGSIG and IMA_VERITY_DIGSIG."""


@dataclass(frozen=True, slots=True)
class ImaReplay:
    """What a log adds up to. `registers`: by PCR, starting from zero. `mismatches`: the numbers of the first
    entries (at most ten) whose digest is not that of their data; they were extended as they are logged."""

    entries: int
    registers: dict[int, bytes]
    mismatches: tuple[int, ...]


def replay_ima(entries: Iterable[ImaEntry], algorithm: str) -> ImaReplay:
    """Extend the PCRs of one bank, "sha1", "sha256", "sha384" or "sha512", with each entry.

    A bank other than the log's own is extended with the digest of the entry's data in its algorithm, as
    Linux does since 5.8. Raises what iterating over `entries` raises.
    """
    bank, size = getattr(hashlib, algorithm), SIZE_OF_ALGORITHM[algorithm]
    hashes = {length: getattr(hashlib, name) for length, name in ALGORITHM_OF_SIZE.items()}
    zeros, ones = bytes(size), b"\xff" * size
    registers: dict[int, bytes] = {}
    mismatches: list[int] = []
    number = -1
    for number, entry in enumerate(entries):
        digest = entry.digest
        if not any(digest):  # a violation
            extended = ones
        else:
            data = entry.hashed()
            if hashes[len(digest)](data).digest() != digest and len(mismatches) < MAX_MISMATCHES:
                mismatches.append(number)
            extended = digest if len(digest) == size else bank(data).digest()
        registers[entry.pcr] = bank(registers.get(entry.pcr, zeros) + extended).digest()
    return ImaReplay(number + 1, registers, tuple(mismatches))


def extend_rtmrs(rtmrs: Rtmrs, entries: Iterable[ImaEntry]) -> Rtmrs:
    """The RTMRs after a kernel with IMA in RTMRs has also extended them with `entries`.

    Such kernels log the index of the RTMR, 0 to 3, in place of the PCR; PCR 8 to 15 go to RTMR2. The SHA-384
    digest is the one of the log, or of the data where the log has another. Raises `MalformedError` for an
    entry of another PCR, and what iterating over `entries` raises.
    """
    registers = list(rtmrs)
    for number, entry in enumerate(entries):
        index = 2 if entry.pcr in PCR_RTMR2 else entry.pcr
        if index >= RTMR_COUNT:
            raise MalformedError(
                f"IMA log: entry {number} is of PCR {entry.pcr}, which no RTMR stands for",
                hint="give the IMA log of a TD whose kernel extends RTMRs",
            )
        if entry.violation:
            digest = b"\xff" * SHA384_SIZE
        elif len(entry.digest) == SHA384_SIZE:
            digest = entry.digest
        else:
            digest = hashlib.sha384(entry.hashed()).digest()
        registers[index] = extend(registers[index], digest)
    return registers[0], registers[1], registers[2], registers[3]


def describe_ima(entry: ImaEntry) -> str:
    """One line about an entry: the file, its digest, whether it carries a signature."""
    try:
        fields = entry.fields()
    except MalformedError:
        return f"{entry.template}: {entry.data[:32].hex()} ({len(entry.data)} bytes)"
    name = fields.get("n-ng", fields.get("n", b"")).rstrip(b"\0")
    words = [printable(name.decode("utf-8", "replace")) or "without a name"]
    digest = fields.get("d-ng") or fields.get("d-ngv2")
    if entry.violation:
        words.append("changed while it was measured (violation)")
    elif digest:
        kind, _, value = digest.partition(b":\0")
        words.append(f"{printable(kind.decode('latin-1'))} {value.hex()}")
    elif "d" in fields:
        words.append(f"sha1 {fields['d'].hex()}")
    words += [_signature(fields[field]) for field in ("sig", "evmsig") if fields.get(field)]
    if fields.get("modsig"):
        words.append("signature appended to the file")
    if fields.get("buf"):
        words.append(f"{len(fields['buf'])} bytes of data")
    return ", ".join(words)


def _signature(attribute: bytes) -> str:
    """The extended attribute security.ima (or security.evm)."""
    said = DIGITAL_SIGNATURES.get(attribute[0])
    if said and len(attribute) >= 9 and attribute[1] == 2:
        return f"{said} by key {attribute[3:7].hex()}"
    return said or f"extended attribute of type {attribute[0]}"
