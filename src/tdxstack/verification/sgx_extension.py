"""The SGX extension of PCK certificates: which platform, and at which security version.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tdxstack.errors import MalformedError
from tdxstack.verification import der

SGX_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"
SGX_TYPES: Final = ("Standard", "Scalable", "ScalableWithIntegrity")

_ARC = bytes.fromhex("2a864886f84d010d01")  # SGX_EXTENSION_OID in DER
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _PLATFORM_INSTANCE, _CONFIGURATION = range(1, 8)
_COMPONENTS = range(1, 17)
_PCESVN, _CPUSVN = 17, 18
_DYNAMIC_PLATFORM, _CACHED_KEYS, _SMT_ENABLED = range(1, 4)
_WHAT = "SGX extension of the PCK certificate"


@dataclass(frozen=True, slots=True)
class SgxExtension:
    """PPID 16 bytes, CPUSVN 16, PCE-ID 2, FMSPC 6, platform instance ID 16; the last four are optional.

    `components` are the 16 SGX TCB component SVNs, which TCB levels are compared with; the bytes of `cpusvn`
    are the raw value and not always the same.
    """

    ppid: bytes
    components: bytes
    pcesvn: int
    cpusvn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None

    @classmethod
    def parse(cls, data: bytes) -> SgxExtension:
        """Read the extension's DER value. Raises `MalformedError`, also for a field given twice."""
        fields = _entries(der.sequence(data, _WHAT), b"")
        tcb = _entries(_field(fields, _TCB, der.SEQUENCE), bytes((_TCB,)))
        components = [_integer(tcb, number) for number in _COMPONENTS]
        if max(components) > 0xFF:
            raise MalformedError(f"{_WHAT}: a TCB component is {max(components)}", hint=_HINT)
        configuration: dict[int, tuple[int, bytes]] = {}
        if _CONFIGURATION in fields:
            configuration = _entries(_field(fields, _CONFIGURATION, der.SEQUENCE), bytes((_CONFIGURATION,)))
        sgx_type = int.from_bytes(_field(fields, _SGX_TYPE, der.ENUMERATED, 1), "big")
        instance = None
        if _PLATFORM_INSTANCE in fields:
            instance = _field(fields, _PLATFORM_INSTANCE, der.OCTET_STRING, 16)
        return cls(
            ppid=_field(fields, _PPID, der.OCTET_STRING, 16),
            components=bytes(components),
            pcesvn=_integer(tcb, _PCESVN),
            cpusvn=_field(tcb, _CPUSVN, der.OCTET_STRING, 16),
            pce_id=_field(fields, _PCE_ID, der.OCTET_STRING, 2),
            fmspc=_field(fields, _FMSPC, der.OCTET_STRING, 6),
            sgx_type=sgx_type,
            platform_instance_id=instance,
            dynamic_platform=_boolean(configuration, _DYNAMIC_PLATFORM),
            cached_keys=_boolean(configuration, _CACHED_KEYS),
            smt_enabled=_boolean(configuration, _SMT_ENABLED),
        )

    @property
    def sgx_type_name(self) -> str:
        """The name of the SGX type, or its number."""
        return SGX_TYPES[self.sgx_type] if self.sgx_type < len(SGX_TYPES) else str(self.sgx_type)


_HINT = "the certificate is damaged or not a PCK certificate"


def _entries(data: bytes, arc: bytes) -> dict[int, tuple[int, bytes]]:
    """Tag and value by the last number of the object identifier, which continues the SGX arc and `arc`."""
    entries: dict[int, tuple[int, bytes]] = {}
    parent = _ARC + arc
    for identifier, tag, value in der.pairs(data, _WHAT):
        if identifier[:-1] != parent:
            continue  # fields of later versions of the profile
        if identifier[-1] in entries:
            raise MalformedError(f"{_WHAT}: field {identifier.hex()} occurs twice", hint=_HINT)
        entries[identifier[-1]] = tag, value
    return entries


def _field(entries: dict[int, tuple[int, bytes]], number: int, tag: int, size: int | None = None) -> bytes:
    if number not in entries:
        raise MalformedError(f"{_WHAT}: field {number} is missing", hint=_HINT)
    found, content = entries[number]
    if found != tag or (size is not None and len(content) != size):
        raise MalformedError(
            f"{_WHAT}: field {number} has DER tag {found:#x} and {len(content)} bytes", hint=_HINT
        )
    return content


def _integer(entries: dict[int, tuple[int, bytes]], number: int) -> int:
    content = _field(entries, number, der.INTEGER)
    if len(content) == 1 and content[0] < 0x80:
        return content[0]
    value = int.from_bytes(content, "big", signed=True)
    if not 1 <= len(content) <= 3 or not 0 <= value <= 0xFFFF:
        raise MalformedError(f"{_WHAT}: field {number} is {content[:8].hex()}, no 16-bit number", hint=_HINT)
    return value


def _boolean(entries: dict[int, tuple[int, bytes]], number: int) -> bool | None:
    return _field(entries, number, der.BOOLEAN, 1) != b"\0" if number in entries else None
