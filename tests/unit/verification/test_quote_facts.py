from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from tdxstack.abi.quote import TEE_TYPE_SGX, Quote, QuoteHeader
from tdxstack.abi.sgx_report import SGX_FLAG_DEBUG, SgxReportBody
from tdxstack.abi.td_body import TdBody10, TdBody15, TdBody15Ex
from tdxstack.verification.quote_facts import claims_emulated, module_facts, quote_facts, quoted_pck
from tests.recorded_boot import Recorded


@pytest.mark.parametrize("body", [TdBody10(), TdBody15(), TdBody15Ex(), SgxReportBody(flags=SGX_FLAG_DEBUG)])
def test_every_field_of_every_body_is_told(boot: Recorded, body: TdBody10 | SgxReportBody) -> None:
    quote = replace(boot.quote, body=body)
    facts = quote_facts(quote)
    json.dumps(facts)
    assert facts["body"].keys() == {"type"} | {field.name for field in fields(body)}
    assert facts["body"]["type"] == body.NAME


def test_an_enclave_is_told_as_one(boot: Recorded) -> None:
    header = replace(boot.quote.header, version=3, tee_type=TEE_TYPE_SGX)
    facts = quote_facts(replace(boot.quote, header=header, body=SgxReportBody(flags=SGX_FLAG_DEBUG)))
    assert facts["header"]["tee"] == "SGX"
    assert facts["body"]["flags"] == {"value": "0000000000000002", "names": ["DEBUG"]}
    assert facts["signature"]["qe_report"]["flags"]["names"] == []


def test_trailing_bytes_are_counted(boot: Recorded) -> None:
    assert quote_facts(replace(boot.quote, trailing=bytes(300)))["trailing_bytes"] == 300


def test_modules_are_named_by_their_line() -> None:
    assert module_facts(bytes.fromhex("0b0107") + bytes(13)) == {
        "id": "TDX_01",
        "version": "1.5",
        "isvsvn": 11,
    }
    assert module_facts(bytes.fromhex("0803") + bytes(14))["version"] == "2.0"
    assert module_facts(bytes(16))["version"] == "1.0"
    assert module_facts(bytes.fromhex("01ff") + bytes(14)) == {"id": "TDX_FF", "version": None, "isvsvn": 1}


def test_a_quote_says_of_itself_that_it_is_emulated(boot: Recorded) -> None:
    assert claims_emulated(boot.quote)
    pck = quoted_pck(boot.quote)
    assert pck is not None and pck["ca"] == "platform"


def test_what_holds_no_certificate_claims_nothing(boot: Recorded) -> None:
    section = boot.quote.signature
    for kind, data in ((5, b"garbage"), (1, bytes(36)), (7, b"")):
        certification = replace(section.certification, type=kind, data=data)
        quote = Quote(QuoteHeader(), TdBody10(), replace(section, certification=certification))
        assert quoted_pck(quote) is None
        assert not claims_emulated(quote)
