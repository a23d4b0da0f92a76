"""What a parser owes any bytes: a value that becomes those bytes again, or a `MalformedError` with a hint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from tdxstack.abi import event_log
from tdxstack.abi.aael import parse_aael
from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.cel import parse_cel
from tdxstack.abi.event_log import Event, EventLog
from tdxstack.abi.hcl_report import HclReport
from tdxstack.abi.ima_log import is_binary, parse_ima_log
from tdxstack.abi.qgs import (
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
)
from tdxstack.abi.quote import CertificationData, Quote
from tdxstack.abi.seam_sigstruct import SeamSigstruct
from tdxstack.abi.td_hob import TdHob
from tdxstack.abi.tdreport import TdReport
from tdxstack.abi.tdvf import parse_image
from tdxstack.abi.tdx_blob import TdxBlob
from tdxstack.cli.evidence_input import decode_evidence
from tdxstack.collateral.reading import read_all
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError
from tdxstack.evidence.document import Evidence
from tdxstack.measurement.decode import decode
from tdxstack.measurement.describe import describe
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.digests import check_digest
from tdxstack.measurement.event_data import (
    BootOption,
    FirmwareBlob,
    GptTable,
    HandoffTables,
    ImageLoad,
    TaggedEvent,
    UefiVariable,
)
from tdxstack.measurement.log_replay import replay_logs
from tdxstack.measurement.logs import read_log
from tdxstack.measurement.signature_list import parse_signature_lists, subject_name
from tdxstack.verification.certificates import read_chain
from tdxstack.verification.chains import RevocationList
from tdxstack.verification.policy_file import parse_policy
from tdxstack.verification.qe_identity import QeIdentity
from tdxstack.verification.quote_facts import claims_emulated, quote_facts, quoted_pck
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.tcb_info import TcbInfo

Target = Callable[[bytes], object]


class Wire(Protocol):
    def to_bytes(self) -> bytes: ...


def round_trips(*parsers: Callable[[bytes], Wire]) -> Target:
    """Each parser gives a structure that becomes the input again, or refuses it."""

    def run(data: bytes) -> None:
        for parse in parsers:
            try:
                value = parse(data)
            except MalformedError as error:
                check_error(error)
                continue
            assert value.to_bytes() == data

    return run


def parses(parse: Callable[[bytes], object]) -> Target:
    """The parser gives anything at all, or refuses the input."""

    def run(data: bytes) -> None:
        try:
            parse(data)
        except MalformedError as error:
            check_error(error)

    return run


def check_error(error: MalformedError) -> None:
    """An error says what is wrong and what to do, each on one line, at a length that people read."""
    for text in (error.message, error.hint):
        assert text
        assert len(text) < 10_000


def _quote(data: bytes) -> None:
    quote = Quote.parse(data)
    assert quote.to_bytes() == data
    quote_facts(quote), quoted_pck(quote), claims_emulated(quote)


def _certification(data: bytes) -> None:
    for kind in (1, 2, 3):
        try:
            platform = CertificationData(kind, data).platform
        except MalformedError as error:
            check_error(error)
        else:
            assert platform is not None
            assert platform.to_bytes() == data


def _hcl_report(data: bytes) -> None:
    report = HclReport.parse(data)
    assert report.to_bytes() == data
    report.runtime_claims(), report.runtime_data_binds()


def _event(data: bytes) -> None:
    """The type of the event, one byte, then its data."""
    types = sorted(event_log.EVENT_TYPE_NAMES)
    event = Event(1, types[data[0] % len(types)] if data else 0, ((12, bytes(48)),), data[1:])
    decode(event), check_digest(event)
    assert describe(event).isprintable()


def _log(data: bytes) -> None:
    log = read_log(data)
    assert sum(entry.meaning.isprintable() for entry in log.entries()) == log.count
    assert replay_logs([log]).events == log.count


def _ima_log(data: bytes) -> None:
    entries = list(parse_ima_log(data))
    for entry in entries:
        entry.hashed()
    if is_binary(data):
        assert b"".join(entry.to_bytes() for entry in entries) == data


def _cel(data: bytes) -> None:
    records = parse_cel(data)
    if data[:1] == b"\0":
        assert b"".join(record.to_bytes() for record in records) == data


def _signatures(data: bytes) -> None:
    subject_name(data)
    parse_signature_lists(data)


def _qe_identity(data: bytes) -> None:
    QeIdentity.parse(SignedJson.parse(data, "enclaveIdentity").value)


def _tcb_info(data: bytes) -> None:
    TcbInfo.parse(SignedJson.parse(data, "tcbInfo").value)


def _evidence(data: bytes) -> None:
    again = Evidence.from_json(data).to_json()
    assert Evidence.from_json(again).to_json() == again
    json.loads(again)


TARGETS: dict[str, Target] = {
    "aael": parses(parse_aael),
    "ccel_table": round_trips(CcelTable.parse),
    "cel": parses(_cel),
    "certificates": parses(read_chain),
    "certification": _certification,
    "collateral": parses(read_all),
    "crl": parses(RevocationList.parse),
    "device_path": parses(device_path_text),
    "event": _event,
    "event_data": round_trips(
        UefiVariable.parse,
        BootOption.parse,
        ImageLoad.parse,
        GptTable.parse,
        TaggedEvent.parse,
        lambda data: FirmwareBlob.parse(data, named=False),
        lambda data: FirmwareBlob.parse(data, named=True),
        lambda data: HandoffTables.parse(data, named=False),
        lambda data: HandoffTables.parse(data, named=True),
    ),
    "event_log": round_trips(EventLog.parse),
    "evidence_document": parses(_evidence),
    "hcl_report": parses(_hcl_report),
    "ima_log": parses(_ima_log),
    "input": decode_evidence,
    "log": parses(_log),
    "policy": parses(parse_policy),
    "qe_identity": parses(_qe_identity),
    "qgs": round_trips(
        GetQuoteRequest.parse,
        GetQuoteResponse.parse,
        GetCollateralRequest.parse,
        GetCollateralResponse.parse,
        GetPlatformInfoRequest.parse,
        GetPlatformInfoResponse.parse,
    ),
    "quote": parses(_quote),
    "seam_sigstruct": round_trips(SeamSigstruct.parse),
    "sgx_extension": parses(SgxExtension.parse),
    "signature_lists": parses(_signatures),
    "tcb_info": parses(_tcb_info),
    "td_hob": round_trips(TdHob.parse),
    "tdreport": round_trips(TdReport.parse),
    "tdvf": parses(parse_image),
    "tdx_blob": round_trips(TdxBlob.parse),
}
"""By name. Nothing but an error of a target's own, or a failed assertion, is a find."""
