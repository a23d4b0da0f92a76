"""What must hold for each public file of a kind. A check takes the file's name and raises AssertionError."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from functools import cache, partial

import pytest

from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote, TdBody10
from tdxstack.abi.tdreport import TdReport
from tdxstack.collateral.bundle import QE_IDENTITY, TCB_INFO, Collateral, crl_der
from tdxstack.collateral.reading import read_all
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.collateral.writing import INTEL, write_collateral
from tdxstack.errors import MalformedError
from tdxstack.measurement.describe import describe
from tdxstack.measurement.digests import check_digest
from tdxstack.measurement.pe import Image
from tdxstack.verification.certificates import (
    INTEL_SGX_ROOT_CA,
    Certificate,
    Chain,
    TrustAnchor,
    read_chain,
)
from tdxstack.verification.chains import RevocationList, chain_problems
from tdxstack.verification.emulated import is_emulated_fmspc
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.qe_identity import QeIdentity
from tdxstack.verification.quote import verify_quote
from tdxstack.verification.result import Status
from tdxstack.verification.signatures import SignatureMemory, der_signature
from tdxstack.verification.tcb_info import TcbInfo
from tests.conformance import vectors

MEMORY = SignatureMemory()

MODULES = {
    (4, 1): "1.5.01",
    (5, 1): "1.5.05",
    (6, 1): "1.5.06",
    (7, 1): "1.5.08",
    (8, 1): "1.5.09",
    (10, 1): "1.5.13",
    (11, 1): "1.5.16",
    (5, 3): "2.0.08",
}
"""TDX module by the first two bytes of TEE_TCB_SVN, as the index gives them."""

UNPUBLISHED_MODULES = ("ffc97a88", "2fd279c1")
"""First bytes of MRSEAMs of modules that Intel's repository of binaries does not hold."""


def quote(name: str, *, fmspc: str, root: bool = True, debug: bool = False) -> None:
    """The bytes round trip, the signatures hold up to Intel's root, and the MRSEAM is that of the module."""
    data = vectors.quote(name)
    parsed = Quote.parse(data)
    assert parsed.to_bytes() == data
    result = verify_quote(parsed, _recent_collateral(), time=datetime(2025, 12, 1, tzinfo=UTC))
    states = {check.id: check.status for check in result.checks}
    for check_id in ("quote.signature", "quote.qe_report_signature", "quote.qe_report_binding", "pck.chain"):
        assert states[check_id] is Status.OK, check_id
    assert (states["pck.trust_anchor"] is Status.OK) is root
    assert (states["td.debug"] is Status.FAIL) is debug
    assert result.pck is not None
    assert result.pck.fmspc.hex() == fmspc
    if isinstance(parsed.body, TdBody10) and not parsed.body.mrseam.hex().startswith(UNPUBLISHED_MODULES):
        modules = json.loads(vectors.read(vectors.DERIVED + "mrseam.json"))
        version = MODULES[parsed.body.tee_tcb_svn[0], parsed.body.tee_tcb_svn[1]]
        assert version in modules[parsed.body.mrseam.hex()]


def collateral(name: str) -> None:
    """Every item can be read, is signed by Intel, and survives the way through all forms."""
    bundle = Collateral.from_json(vectors.read(name))
    assert Collateral.from_json(bundle.to_json()) == bundle
    assert Collateral.from_json(bundle.to_dcap_qvl_json()) == bundle
    assert read_all(write_collateral([bundle], INTEL)) == (bundle,)
    for chain in (bundle.tcb_info_issuer_chain, bundle.qe_identity_issuer_chain):
        assert _is_intels(read_chain(chain))
    tcb_info = _signed(bundle.tcb_info, TCB_INFO, read_chain(bundle.tcb_info_issuer_chain))
    TcbInfo.parse(tcb_info.value)
    QeIdentity.parse(
        _signed(bundle.qe_identity, QE_IDENTITY, read_chain(bundle.qe_identity_issuer_chain)).value
    )
    issuers = read_chain(bundle.pck_crl_issuer_chain)
    assert _lists(bundle.pck_crl, issuers[0].name, issuers)
    assert _lists(bundle.root_ca_crl, INTEL_SGX_ROOT_CA.name, issuers)


def derived_collateral(name: str, *, fmspc: str) -> None:
    """As `collateral`, for one kind of platform, of TCB evaluation 18."""
    collateral(name)
    info = ParsedCollateral.parse(Collateral.from_json(vectors.read(name))).tcb_info.value
    assert info is not None
    assert (info.fmspc.hex(), info.evaluation_number, info.id) == (fmspc, 18, "TDX")


def tcb_info(name: str, *, kind: str, fmspc: str = "", evaluation: int = 0) -> None:
    """A TCB info document under Intel's signature, of version 3; version 2 is refused."""
    document, chain = _document(name, "tcb_info_json")
    value = _signed(document, TCB_INFO, chain).value
    if kind == "version 2":
        with pytest.raises(MalformedError):
            TcbInfo.parse(value)
        return
    info = TcbInfo.parse(value)
    assert info.id == kind
    assert info.levels
    assert info.fmspc.hex().startswith(fmspc)
    assert info.evaluation_number == evaluation or not evaluation
    # Intel's library sorts the levels like this before it looks for the first that fits; so does the PCS.
    order = [(level.sgx_svns, level.pcesvn, level.tdx_svns) for level in info.levels]
    assert order == sorted(order, reverse=True)


def qe_identity(name: str, *, kind: str) -> None:
    """An enclave identity under Intel's signature."""
    document, chain = _document(name, "enclave_identity_json")
    assert QeIdentity.parse(_signed(document, QE_IDENTITY, chain).value).id == kind


def evaluation_numbers(name: str, *, kind: str) -> None:
    """The list of TCB evaluations under Intel's signature."""
    document, chain = _document(name, "tcb_evaluation_data_numbers_json")
    value = _signed(document, "tcbEvaluationDataNumbers", chain).value
    assert value["id"] == kind
    assert {row["tcbEvaluationDataNumber"] for row in value["tcbEvalNumbers"]} >= {17}


def fmspcs(name: str) -> None:
    """None of Intel's FMSPCs lies in the range that marks emulated platforms."""
    listed = json.loads(json.loads(vectors.read(name))["fmspcs_json"])
    assert len(listed) > 20
    assert not any(is_emulated_fmspc(bytes.fromhex(row["fmspc"])) for row in listed)


def root_certificate(name: str) -> None:
    """Intel's production root, whose key is built in together with the signature that it gave itself."""
    data = vectors.read(name)
    (root,) = read_chain(data) if name.endswith(".pem") else (Certificate.parse(data),)
    built_in = INTEL_SGX_ROOT_CA
    assert (root.name, root.key.der, root.signature) == (
        built_in.name,
        built_in.public_key_der,
        built_in.signature,
    )
    assert hashlib.sha256(root.signed_bytes).digest() == built_in.signed_digest
    assert built_in.public_key().signed(root.signature, root.signed_bytes)
    assert TrustAnchor.from_certificate(data).public_key_der == built_in.public_key_der


def chain(name: str, *, length: int) -> None:
    """A chain of Intel's, sound up to its root."""
    found = read_chain(vectors.read(name))
    assert len(found) == length
    assert _is_intels(found)


def signing_certificate(name: str) -> None:
    """The certificate of the TCB signing key, alone: a chain that does not reach a root."""
    found = read_chain(vectors.read(name))
    assert [certificate.name for certificate in found] == ["Intel SGX TCB Signing"]
    assert chain_problems(found, MEMORY)


def other_curve(name: str) -> None:
    """A certificate with a key on P-384, which no PCK certificate has, is refused."""
    with pytest.raises(MalformedError, match="P-256"):
        read_chain(vectors.read(name))


def revocation_list(name: str, *, issuer: str) -> None:
    """A CRL that bears the signature of its issuer, an authority of Intel's."""
    data = vectors.read(name)
    issuers = read_chain(_recent_collateral().pck_crl_issuer_chain)
    if name.endswith(".json"):
        answer = json.loads(data)
        encoded = answer.get("crl_data_base64")
        data = base64.b64decode(encoded) if encoded else answer["crl_data"].encode()
        issuers = read_chain(answer["issuer_chain"].encode())
    der = crl_der(data)
    assert _lists(der, issuer, issuers)
    found = RevocationList.parse(der)
    assert found.end is not None
    assert found.start < found.end


def event_log(name: str, *, events: int, crypto_agile: bool = True, digests: bool = True) -> None:
    """The bytes round trip, every event can be described, and no digest contradicts its data."""
    data = vectors.read(name)
    log = EventLog.parse(data)
    assert log.to_bytes() == data
    assert len(log.events) == events
    assert (log.spec_id is not None) is crypto_agile
    assert all(describe(event).isprintable() for event in log.events)
    if digests:
        assert [event for event in log.events if check_digest(event).status == "fail"] == []


def ccel_table(name: str, *, length: int) -> None:
    """An ACPI table of a TDX event log."""
    data = vectors.read(name)
    table = CcelTable.parse(data)
    assert table.to_bytes() == data
    assert table.is_tdx
    assert table.log_area_length == length


def tdreport(name: str, *, version: int) -> None:
    """A TDREPORT whose hashes bind its parts."""
    data = vectors.read(name)
    report = TdReport.parse(data)
    assert report.to_bytes() == data
    assert report.mac.version == version
    assert report.hashes_bind()


def no_tdreport(name: str) -> None:
    """Random bytes are no TDREPORT."""
    with pytest.raises(MalformedError, match="report type"):
        TdReport.parse(vectors.read(name))


def program(name: str, *, digest: str) -> None:
    """The SHA-384 that firmware measures of a PE program."""
    assert Image.parse(vectors.read(name)).digest().hex() == digest


def zeros(name: str) -> None:
    """The REPORTDATA that goes with a quote."""
    assert vectors.read(name) == bytes(64)


@cache
def _recent_collateral() -> Collateral:
    """Collateral for what must hold whatever the collateral says, and the authorities that it is from."""
    return Collateral.from_json(
        vectors.read(vectors.DERIVED + "collateral-90c06f000000-eval18-2026-03-16.json")
    )


def _document(name: str, member: str) -> tuple[bytes, Chain | None]:
    """A PCS document: itself, or recorded together with its issuer chain, in one of two forms."""
    recorded = json.loads(vectors.read(name))
    if member not in recorded:
        return vectors.read(name), None
    return recorded[member].encode(), read_chain(recorded["issuer_chain"].encode())


def _signed(document: bytes, member: str, chain: Chain | None) -> SignedJson:
    """The document, after its signature was found good under `chain`, or under one of Intel's two signers."""
    signed = SignedJson.parse(document, member)
    signers = (
        vectors.read(vectors.DCAP_RS + "tcb_signing_cert.pem"),
        _recent_collateral().tcb_info_issuer_chain,
    )
    assert any(
        found[0].key.signed(der_signature(signed.signature), signed.body) and _is_intels(found)
        for found in ([chain] if chain else map(read_chain, signers))
    ), "no TCB signing certificate of Intel's has signed it"
    return signed


def _is_intels(found: Chain) -> bool:
    return not chain_problems(found, MEMORY) and found[-1].key.der == INTEL_SGX_ROOT_CA.public_key_der


def _lists(der: bytes, issuer: str, issuers: Chain) -> bool:
    """Whether a CRL is signed by the certificate called `issuer` in a chain of Intel's."""
    key = next(certificate.key for certificate in issuers if certificate.name == issuer)
    return _is_intels(issuers) and not RevocationList.parse(der).problems(issuer, key, MEMORY)


tdx_tcb_info = partial(tcb_info, kind="TDX")
sgx_tcb_info = partial(tcb_info, kind="SGX")
