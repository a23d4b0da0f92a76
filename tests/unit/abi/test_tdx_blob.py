from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.tdx_blob import PAGE, VERSION_1, VERSION_2, TdxBlob
from tdxstack.errors import MalformedError

MODULE = bytes(range(256)) * 32
SIGSTRUCT = b"\x5a" * 2048


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_joined_parts_come_back(version: int) -> None:
    blob = TdxBlob.join(version, SIGSTRUCT, MODULE)
    data = blob.to_bytes()
    assert TdxBlob.parse(data) == blob
    assert TdxBlob.parse(data).to_bytes() == data
    assert (blob.sigstruct, blob.module) == (SIGSTRUCT + bytes(2048), MODULE)
    words = [int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2)]
    assert sum(words) % 65536 == 0 == blob.word_sum()


def test_headers_are_as_their_sources_have_them() -> None:
    old = TdxBlob.join(VERSION_1, SIGSTRUCT, MODULE).to_bytes()
    assert old[:2] + old[4:20] == bytes.fromhex("0001") + (2 * PAGE).to_bytes(4, "little") + b"TDX-BLOB" + (
        4 * PAGE
    ).to_bytes(4, "little")
    new = TdxBlob.join(VERSION_2, SIGSTRUCT, MODULE).to_bytes()
    assert new[:2] + new[4:20] == bytes.fromhex("0002") + b"TDX-BLOB" + bytes.fromhex("0100000002000000")
    assert len(old) == len(new) == 4 * PAGE


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
@given(at=st.integers(0, PAGE + 10), value=st.integers(0, 255))
def test_any_changed_header_is_kept_or_refused(version: int, at: int, value: int) -> None:
    data = bytearray(TdxBlob.join(version, SIGSTRUCT, MODULE).to_bytes())
    data[at] = value
    try:
        blob = TdxBlob.parse(bytes(data))
    except MalformedError:
        return
    assert blob.to_bytes() == data


@given(st.binary(max_size=64))
def test_short_files_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        TdxBlob.parse(data)
    with pytest.raises(MalformedError):
        TdxBlob.parse(TdxBlob.join(VERSION_2, SIGSTRUCT, MODULE).to_bytes() + data + b"\0")


@pytest.mark.parametrize("module", [b"", MODULE[:-1], bytes(PAGE * 497)])
def test_modules_of_other_sizes_are_refused(module: bytes) -> None:
    with pytest.raises(MalformedError, match="the module has"):
        TdxBlob.join(VERSION_2, SIGSTRUCT, module)
