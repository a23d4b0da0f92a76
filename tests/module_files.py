"""TDX modules made for tests: the format of Intel's, and a key of our own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tdxstack.abi.seam_sigstruct import SeamSigstruct

SAPPHIRE_RAPIDS = 0x806F8
GRANITE_RAPIDS = 0xA06D0
MODULE = bytes(range(256)) * 48
"""Three pages."""


def sigstruct(
    seamhash: bytes, *, cpu: int = SAPPHIRE_RAPIDS, svn: tuple[int, int] = (11, 1)
) -> SeamSigstruct:
    """A sigstruct without a signature."""
    return SeamSigstruct(
        module_type=0,
        build_date=0x20250219,
        header_reserved=bytes(88),
        modulus=b"\xff" * 384,
        exponent=65537,
        signature=bytes(384),
        seamhash=seamhash,
        minor_svn=svn[0],
        major_svn=svn[1],
        attributes=0,
        rip_offset=4096,
        stack_pages=1,
        tls_pages=1,
        keyhole_pages=127,
        global_data_pages=21,
        max_tdmrs=0,
        max_reserved_per_tdmr=0,
        pamt_entry_size_4k=0,
        pamt_entry_size_2m=0,
        pamt_entry_size_1g=0,
        reserved1=bytes(6),
        handoff_version=0,
        min_update_handoff_version=0,
        no_downgrade=0,
        reserved2=0,
        handoff_pages=13,
        gdt_idt_offset=0,
        fault_wrapper_offset=0,
        reserved3=bytes(24),
        cpuid_table=(cpu,),
        table_padding=bytes(1016),
    )


def signed(
    module: bytes = MODULE,
    *,
    cpu: int = SAPPHIRE_RAPIDS,
    svn: tuple[int, int] = (11, 1),
    module_type: int = 0,
) -> SeamSigstruct:
    """The sigstruct of a module, signed with the tests' key."""
    key = _key()
    modulus = key.public_key().public_numbers().n.to_bytes(384, "little")
    blank = sigstruct(hashlib.sha384(module).digest(), cpu=cpu, svn=svn)
    blank = replace(blank, modulus=modulus, module_type=module_type)
    signature = key.sign(blank.signed_bytes(), padding.PKCS1v15(), hashes.SHA384())
    return replace(blank, signature=signature[::-1])


@cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=3072)
