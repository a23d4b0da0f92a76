from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.seam_sigstruct import DEBUG_SIGNED, SeamSigstruct
from tdxstack.errors import MalformedError
from tests.module_files import SAPPHIRE_RAPIDS, sigstruct

SAMPLE = sigstruct(bytes(48))


def test_fields_are_where_the_specification_has_them() -> None:
    data = replace(SAMPLE, module_type=DEBUG_SIGNED, minor_svn=11, major_svn=1).to_bytes()
    assert len(data) == 2048
    assert data[12:16] == bytes.fromhex("00000080")
    assert data[16:20] == bytes.fromhex("86800000")
    assert data[20:24] == bytes.fromhex("19022520")
    assert data[512:516] == bytes.fromhex("01000100")
    assert data[900:948] == SAMPLE.seamhash
    assert data[948:950] == b"\x0b\x01"
    assert data[1024:1032] == (1).to_bytes(4, "little") + SAPPHIRE_RAPIDS.to_bytes(4, "little")


def test_parse_gives_back_what_was_written() -> None:
    assert SeamSigstruct.parse(SAMPLE.to_bytes()) == SAMPLE


@given(st.integers(0, 2047), st.integers(1, 255))
def test_any_changed_byte_is_kept_or_refused(at: int, change: int) -> None:
    data = bytearray(SAMPLE.to_bytes())
    data[at] ^= change
    try:
        parsed = SeamSigstruct.parse(bytes(data))
    except MalformedError:
        return
    assert parsed.to_bytes() == data


@given(st.binary(max_size=2100))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    try:
        SeamSigstruct.parse(data)
    except MalformedError:
        return
    raise AssertionError("random bytes are no sigstruct")


def test_a_table_of_too_many_cpus_is_refused() -> None:
    data = bytearray(SAMPLE.to_bytes())
    data[1024:1028] = (256).to_bytes(4, "little")
    with pytest.raises(MalformedError, match="256 CPUs"):
        SeamSigstruct.parse(bytes(data))
    data[1024:1028] = (255).to_bytes(4, "little")
    assert len(SeamSigstruct.parse(bytes(data)).cpuid_table) == 255


def test_the_signature_is_over_all_but_key_and_signature() -> None:
    signed = SAMPLE.signed_bytes()
    assert len(signed) == 128 + 1148
    assert replace(SAMPLE, modulus=b"\1" * 384, signature=b"\2" * 384).signed_bytes() == signed
    assert replace(SAMPLE, minor_svn=99).signed_bytes() != signed
    assert replace(SAMPLE, build_date=0x20260101).signed_bytes() != signed


def test_the_stepping_of_a_cpu_does_not_count() -> None:
    assert SAMPLE.supports(SAPPHIRE_RAPIDS)
    assert SAMPLE.supports(SAPPHIRE_RAPIDS ^ 0xF)
    assert not SAMPLE.supports(SAPPHIRE_RAPIDS ^ 0x10)


def test_build_dates() -> None:
    assert SAMPLE.built == date(2025, 2, 19)
    assert replace(SAMPLE, build_date=0x20251301).built is None
    assert replace(SAMPLE, build_date=0xFFFFFFFF).built is None
