"""The marks of emulated evidence. The emulated PKI sets them, the verifier demands consent for them."""

from __future__ import annotations

import hashlib
from typing import Final

EMULATED_MARKER_OID: Final = "2.25.126189250"
"""Non-critical extension of the emulated root CA. The arc 2.25 (ITU-T X.667) is free to all; its numbers are
UUIDs, and this one, cut from a random UUID, is smaller than any that a generator makes. It has fewer than 32
bits because the ASN.1 readers of Go and of several Rust libraries refuse certificates with larger arcs."""

EMULATED_MARKER_TEXT: Final = "tdxstack emulated TDX: not protected"
"""What the marking extension says, as an ASN.1 UTF8String."""

_UTF8_STRING_TAG: Final = 0x0C

EMULATED_MARKER_DER: Final = (
    bytes((_UTF8_STRING_TAG, len(EMULATED_MARKER_TEXT))) + EMULATED_MARKER_TEXT.encode()
)
"""DER value of the marking extension (the text is shorter than 128 bytes: short length form)."""

EMULATED_FMSPC_PREFIX: Final = b"\xfe"
"""First byte of every emulated FMSPC. The FMSPCs that Intel's PCS lists (`/fmspcs`) start with 00 to F0 in
steps of 16, the low half of the byte being zero."""

EMULATED_FMSPC: Final = EMULATED_FMSPC_PREFIX + bytes.fromhex("5444580000")
"""FMSPC of the emulated platform: FE, "TDX", two zero bytes."""


EMULATED_MRSEAM: Final = hashlib.sha384(b"tdxstack emulated TDX module").digest()
"""MRSEAM of the emulated platform: of no file, so of no TDX module."""


def is_emulated_fmspc(fmspc: bytes) -> bool:
    """Whether a 6-byte FMSPC lies in the range reserved for emulated platforms."""
    return fmspc.startswith(EMULATED_FMSPC_PREFIX)
