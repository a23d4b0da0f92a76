from __future__ import annotations

import struct

import pytest

from tdxstack.abi.certification import CertificationData, PlatformIdentity
from tdxstack.errors import MalformedError


@pytest.mark.parametrize(("kind", "size"), [(1, 16), (2, 256), (3, 384)])
def test_types_1_to_3_name_the_platform(kind: int, size: int) -> None:
    data = b"P" * size + b"C" * 16 + struct.pack("<HH", 11, 7)
    platform = CertificationData(kind, data).platform
    assert platform == PlatformIdentity(b"P" * size, b"C" * 16, pce_svn=11, pce_id=7)
    assert platform.to_bytes() == data
    early = CertificationData(kind, data[:-2]).platform
    assert early == PlatformIdentity(b"P" * size, b"C" * 16, pce_svn=11, pce_id=None)
    assert early.to_bytes() == data[:-2]
    for wrong in (data[:-1], data[:-3], data + b"x", b""):
        with pytest.raises(MalformedError) as caught:
            _ = CertificationData(kind, wrong).platform
        assert caught.value.hint


@pytest.mark.parametrize("kind", [0, 4, 5, 6, 7, 8])
def test_other_types_do_not(kind: int) -> None:
    assert CertificationData(kind, bytes(36)).platform is None
