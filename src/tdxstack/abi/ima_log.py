"""The runtime measurement log of Linux's IMA, in its binary and its text form.

Sources: Linux `security/integrity/ima/ima_fs.c` (both forms), `ima_template.c` and `ima_template_lib.c`
(templates and fields), `ima_crypto.c` (what is hashed); `Documentation/security/IMA-templates.rst`.
Numbers are little-endian, as on every machine that runs TDs.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

TEMPLATES = {
    "ima": ("d", "n"),
    "ima-ng": ("d-ng", "n-ng"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    "evm-sig": (
        *("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues"),
        *("iuid", "igid", "imode"),
    ),
}
"""The fields of each template. A template of the administrator's own is named by them, with "|" between."""

DIGEST_SIZES = (20, 32, 48, 64)
"""SHA-1, as kernels log by default; SHA-256, SHA-384, SHA-512 in the logs of the other banks."""

OLD_TEMPLATE = "ima"
OLD_NAME_SIZE = 256
"""In the old template the name is hashed with zeros up to this size."""

MAX_CACHED_NAMES = 64

MAX_LINE = 1 << 20
"""Bytes of a line in the text form; a path has at most 4096 and a signature some thousand digits."""

DAMAGED = "the log is damaged"
NOT_A_LOG = "give binary_runtime_measurements or ascii_runtime_measurements of /sys/kernel/security/ima"

_BUILT_IN = {name.encode("ascii") for name in TEMPLATES}
_SIZE = struct.Struct("<I")
_NAME = re.compile(rb"[!-~]{1,255}")
_LINE = re.compile(rb" *[0-9]{1,4} (?:[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}) [!-~]{1,255} ")
_HEX = re.compile(rb"(?:[0-9a-f]{2})*")
_TAIL_FIELDS = frozenset({"sig", "buf", "modsig", "evmsig", "d-modsig"})
"""Fields behind the name that the text form shows as digits, or as nothing where they are empty."""


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One measurement, as it stands in the binary log.

    | size | field                                                                       |
    |------|-----------------------------------------------------------------------------|
    | 4    | PCR, 10 by default; in TDs of some distributors the index of an RTMR        |
    | n    | digest of the data (20 bytes of SHA-1; 32, 48 or 64 in other banks' logs)   |
    | 4    | size of the template's name                                                 |
    | n    | name of the template                                                        |
    | 4    | size of the data; absent in the template "ima"                              |
    | n    | the data: for each field 4 bytes of size, then the field; in the template   |
    |      | "ima" a digest of 20 bytes, 4 bytes of size, then the name                  |
    """

    pcr: int
    digest: bytes
    template: str
    data: bytes

    @property
    def violation(self) -> bool:
        """Whether the file was changed while it was measured: the digest is zero, all ones are extended."""
        return not any(self.digest)

    def hashed(self) -> bytes:
        """What the digest is of."""
        if self.template != OLD_TEMPLATE:
            return self.data
        return self.data[:20] + self.data[24:].ljust(OLD_NAME_SIZE, b"\0")

    def fields(self) -> dict[str, bytes]:
        """The data by field name (see `TEMPLATES`). Raises `MalformedError` where it does not fit."""
        reader = Reader(self.data, f"IMA template {self.template}")
        names = TEMPLATES.get(self.template) or tuple(self.template.split("|"))
        values = {}
        for name in names:
            size = 20 if name == "d" and self.template == OLD_TEMPLATE else reader.u32(f"size of {name}")
            values[name] = reader.take(size, name)
        reader.end()
        return values

    def to_bytes(self) -> bytes:
        """The entry in the binary log."""
        name = self.template.encode("ascii")
        size = b"" if self.template == OLD_TEMPLATE else _SIZE.pack(len(self.data))
        return b"".join((_SIZE.pack(self.pcr), self.digest, _SIZE.pack(len(name)), name, size, self.data))


def is_text(data: bytes) -> bool:
    """Whether `data` starts as the text form does."""
    return _LINE.match(data) is not None


def is_binary(data: bytes) -> bool:
    """Whether `data` starts as the binary form does."""
    return _digest_size(data) is not None


def parse_ima_log(data: bytes) -> Iterator[ImaEntry]:
    """The entries of a log in either form, one at a time: a log may hold millions.

    Raises `MalformedError`, which names the offset, on reaching what is no entry.
    """
    if is_text(data):
        return _text_entries(data)
    return _binary_entries(data)


def _digest_size(data: bytes) -> int | None:
    """The size of the digests: the first with which a template's name follows."""
    for size in DIGEST_SIZES:
        if len(data) < size + 8:
            break
        length = int.from_bytes(data[size + 4 : size + 8], "little")
        name = data[size + 8 : size + 8 + length] if length <= 255 else b""
        if len(name) == length and (name in _BUILT_IN or (b"|" in name and _NAME.fullmatch(name))):
            return size
    return None


def _binary_entries(data: bytes) -> Iterator[ImaEntry]:
    digest_size = _digest_size(data)
    if digest_size is None:
        raise MalformedError("IMA log: no template name at offset 24 or after", hint=NOT_A_LOG)
    head = struct.Struct(f"<I{digest_size}sI")
    known: dict[bytes, str] = {}
    at = 0
    while at < len(data):
        try:
            pcr, digest, length = head.unpack_from(data, at)
            start = at + head.size
            end = start + length
            name = data[start:end]
            template = known.get(name)
            if template is None:
                template = _template(name, length, start)
                if len(known) < MAX_CACHED_NAMES:
                    known[name] = template
            if template == OLD_TEMPLATE:
                start, size = end, _SIZE.unpack_from(data, end + 20)[0]
                _check_old_name(size, at)
                end += 24 + size
            else:
                start = end + 4
                end = start + _SIZE.unpack_from(data, end)[0]
        except struct.error:
            raise MalformedError(f"IMA log: the entry at offset {at} is cut short", hint=DAMAGED) from None
        if end > len(data):
            raise MalformedError(
                f"IMA log: template data needs {end - start} bytes at offset {start},"
                f" {len(data) - start} are left",
                hint=DAMAGED,
            )
        yield ImaEntry(pcr, digest, template, data[start:end])
        at = end


def _check_old_name(size: int, at: int) -> None:
    if size > OLD_NAME_SIZE:
        raise MalformedError(
            f"IMA log: a name of {size} bytes in the old template, in the entry at offset {at}", hint=DAMAGED
        )


def _template(name: bytes, length: int, at: int) -> str:
    if len(name) != length or not _NAME.fullmatch(name):
        raise MalformedError(f"IMA log: no template name of {length} bytes at offset {at}", hint=DAMAGED)
    return name.decode("ascii")


def _text_entries(data: bytes) -> Iterator[ImaEntry]:
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        if end - at > MAX_LINE:
            raise MalformedError(f"IMA log: the line at offset {at} is {end - at} bytes long", hint=DAMAGED)
        line = data[at:end]
        if not _LINE.match(line):
            raise MalformedError(
                f"IMA log: the line at offset {at} is not PCR, digest, template and its fields", hint=DAMAGED
            )
        pcr, digest, template, rest = line.lstrip().split(b" ", 3)
        name = template.decode("ascii")
        yield ImaEntry(int(pcr), bytes.fromhex(digest.decode()), name, _text_data(name, rest, at))
        at = end + 1


def _text_data(template: str, text: bytes, at: int) -> bytes:
    """The data that the text form of the fields stands for."""
    names = TEMPLATES.get(template) or tuple(template.split("|"))
    tail = names[2:]
    if names[:2] not in (("d", "n"), ("d-ng", "n-ng"), ("d-ngv2", "n-ng")) or not _TAIL_FIELDS.issuperset(
        tail
    ):
        raise MalformedError(
            f"IMA log: template {template!r} at offset {at} cannot be read from the text form",
            hint="give the binary log, binary_runtime_measurements",
        )
    digest, _, rest = text.partition(b" ")
    values = []
    for name in reversed(tail):
        before, space, last = rest.rpartition(b" ")
        # An empty field leaves its space behind, which some tools cut off; names may hold spaces.
        present = space and (_HEX.fullmatch(last) or (name == "d-modsig" and b":" in last))
        values.append(_text_field(name, last, at) if present else b"")
        rest = before if present else rest
    values.reverse()
    if template == OLD_TEMPLATE:
        _check_old_name(len(rest), at)
        return _digits(digest, at) + _SIZE.pack(len(rest)) + rest
    fields = (_text_field(names[0], digest, at), rest + b"\0", *values)
    return b"".join(_SIZE.pack(len(field)) + field for field in fields)


def _text_field(name: str, text: bytes, at: int) -> bytes:
    """A digest with its algorithm (and kind) before it, or plain digits."""
    if not name.startswith("d-") or b":" not in text:
        return _digits(text, at)
    prefix, _, digits = text.rpartition(b":")
    return prefix + b":\0" + _digits(digits, at)


def _digits(text: bytes, at: int) -> bytes:
    if not _HEX.fullmatch(text):
        raise MalformedError(
            f"IMA log: the line at offset {at} has {text[:40]!r} in place of hexadecimal digits", hint=DAMAGED
        )
    return bytes.fromhex(text.decode("ascii"))
