"""The SGX extension of a PCK certificate, written in DER.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5.
Compared with certificates that Intel has issued.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from tdxstack.quoting.platform import EmulatedPlatform

SGX_EXTENSION_OID: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")

SGX_TYPE_SCALABLE: Final = 1
"""Multi-package platforms, the ones that have TDX."""

_SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30

_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _PLATFORM_INSTANCE, _CONFIGURATION = range(1, 8)
_PCESVN, _CPUSVN = 17, 18
_DYNAMIC_PLATFORM, _CACHED_KEYS, _SMT_ENABLED = 1, 2, 3


def sgx_extension(
    platform: EmulatedPlatform, ppid: bytes, platform_instance_id: bytes
) -> x509.UnrecognizedExtension:
    """The extension that tells a verifier the platform's PPID, TCB and type.

    `ppid` and `platform_instance_id` are 16 bytes each. Dynamic platform, cached keys and SMT are all false:
    the emulated platform has one package, and its processors are no hyper-threads.
    """
    components = [_entry(_integer(svn), _TCB, number) for number, svn in enumerate(platform.cpusvn, start=1)]
    tcb = [
        *components,
        _entry(_integer(platform.pcesvn), _TCB, _PCESVN),
        _entry(_der(_OCTETS, platform.cpusvn), _TCB, _CPUSVN),
    ]
    configuration = [
        _entry(_der(_BOOLEAN, b"\x00"), _CONFIGURATION, flag)
        for flag in (_DYNAMIC_PLATFORM, _CACHED_KEYS, _SMT_ENABLED)
    ]
    entries = [
        _entry(_der(_OCTETS, ppid), _PPID),
        _entry(_der(_SEQUENCE, b"".join(tcb)), _TCB),
        _entry(_der(_OCTETS, platform.pce_id), _PCE_ID),
        _entry(_der(_OCTETS, platform.fmspc), _FMSPC),
        _entry(_der(_ENUMERATED, bytes((SGX_TYPE_SCALABLE,))), _SGX_TYPE),
        _entry(_der(_OCTETS, platform_instance_id), _PLATFORM_INSTANCE),
        _entry(_der(_SEQUENCE, b"".join(configuration)), _CONFIGURATION),
    ]
    return x509.UnrecognizedExtension(SGX_EXTENSION_OID, _der(_SEQUENCE, b"".join(entries)))


def _entry(value: bytes, *arcs: int) -> bytes:
    """SEQUENCE of the object identifier below the SGX arc, and its value."""
    return _der(_SEQUENCE, _der(_OID, _SGX_ARC + bytes(arcs)) + value)


def _integer(number: int) -> bytes:
    return _der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
