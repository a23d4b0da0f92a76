from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.errors import MalformedError
from tdxstack.quoting import tcb
from tdxstack.quoting.authority import new_key
from tdxstack.quoting.platform import EmulatedPlatform

from .conftest import NOW

KEY = new_key()


def document() -> bytes:
    return tcb.signed_document("tcbInfo", tcb.tcb_info(EmulatedPlatform(), NOW, timedelta(days=30)), KEY)


def test_a_signed_document_opens_with_its_key() -> None:
    assert tcb.open_document("tcbInfo", document(), KEY.public_key())["id"] == "TDX"


def test_a_changed_document_does_not_open() -> None:
    signed = document()
    for at in range(0, len(signed), 7):
        changed = bytearray(signed)
        changed[at] ^= 1
        with pytest.raises(MalformedError):
            tcb.open_document("tcbInfo", bytes(changed), KEY.public_key())


def test_another_key_or_name_does_not_open_it() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(MalformedError, match="signature"):
        tcb.open_document("tcbInfo", document(), other.public_key())
    with pytest.raises(MalformedError, match="enclaveIdentity"):
        tcb.open_document("enclaveIdentity", document(), KEY.public_key())


def test_an_older_platform_finds_a_level_that_is_out_of_date() -> None:
    levels = tcb.tcb_info(EmulatedPlatform(), NOW, timedelta(days=30))
    assert b'"tcbStatus":"OutOfDate","advisoryIDs":["TDXSTACK-EMULATED-0001"]' in levels
