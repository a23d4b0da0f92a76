"""A boot as a verifier records it, and the keys of the emulated platform that it happened on."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tdxstack.abi import event_log
from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.event_log import ALG_SHA384, Event, EventLog, SpecId
from tdxstack.abi.quote import CERTIFICATION_PCK_CHAIN, CertificationData, PlatformIdentity, Quote, TdBody10
from tdxstack.abi.tdreport import ReportMac, TdInfo, TdReport, TeeTcbInfo
from tdxstack.collateral.bundle import QE_IDENTITY, TCB_INFO, Collateral
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.evidence.binding import report_data
from tdxstack.evidence.document import Evidence
from tdxstack.measurement.replay import replay
from tdxstack.quoting import tcb
from tdxstack.quoting.authority import new_key, raw_signature
from tdxstack.quoting.enclave import QuotingEnclave
from tdxstack.quoting.pki import Pki, open_pki
from tdxstack.verification.boot import BootResult, Expectation, verify_boot
from tdxstack.verification.certificates import TrustAnchor, read_chain
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.policy import Policy
from tests.synthetic.certificates import pem

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
"""When the boots of the tests are verified, unless a test says otherwise."""

ALLOW_EMULATED = Policy(allow_emulated=True)

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Keys:
    """The private keys of an emulated PKI and the certificates that they belong to."""

    root_key: Key
    platform_ca_key: Key
    pck_key: Key
    tcb_signing_key: Key
    root: x509.Certificate
    platform_ca: x509.Certificate
    pck: x509.Certificate

    @classmethod
    def of(cls, pki: Pki) -> Keys:
        """Read the keys that lie beside the certificates of `pki`."""

        def key(name: str) -> Key:
            loaded = load_pem_private_key((pki.directory / f"{name}.key").read_bytes(), password=None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            return loaded

        return cls(
            root_key=key("root-ca"),
            platform_ca_key=key("pck-platform-ca"),
            pck_key=pki.pck_key,
            tcb_signing_key=key("tcb-signing"),
            root=pki.root,
            platform_ca=pki.platform_ca,
            pck=pki.pck,
        )


@dataclass(frozen=True)
class Recorded:
    """All that `verify_boot` is given."""

    evidence: Evidence
    expectation: Expectation
    collateral: Collateral
    anchors: tuple[TrustAnchor, ...]
    policy: Policy
    time: datetime

    def verify(self) -> BootResult:
        """Verify it."""
        return verify_boot(
            self.evidence,
            self.expectation,
            ParsedCollateral.parse(self.collateral),
            time=self.time,
            anchors=self.anchors,
            policy=self.policy,
        )

    @property
    def quote(self) -> Quote:
        """The quote, parsed."""
        return Quote.parse(self.evidence.quote)

    @property
    def report(self) -> TdReport:
        """The TDREPORT, parsed."""
        return TdReport.parse(self.evidence.tdreport)

    @property
    def log(self) -> EventLog:
        """The event log, parsed."""
        assert self.evidence.ccel_data is not None
        return EventLog.parse(self.evidence.ccel_data)


def synthetic_boot(pki: Pki, time: datetime, *, quote_version: int = 4) -> Recorded:
    """A small boot on the emulated platform `pki`, verified at `time`: every check passes."""
    nonce, host_key = bytes(range(32)), b"\x00\x00\x00\x0bssh-ed25519" + bytes(36)
    log = EventLog(_spec_id(), _events())
    td_info = TdInfo(
        attributes=1 << 28,
        xfam=0x61AE7,
        mrtd=hashlib.sha384(b"firmware").digest(),
        rtmrs=replay(log.events),
    )
    report = _report(pki, td_info, report_data(nonce, host_key))
    table = CcelTable(
        revision=1,
        oem_id=b"INTEL ",
        oem_table_id=b"EDK2    ",
        oem_revision=2,
        creator_id=b"    ",
        creator_revision=0x1000013,
        cc_type=2,
        cc_subtype=0,
        reserved=0,
        log_area_length=65536,
        log_area_address=0x7EA26000,
    )
    evidence = Evidence(
        nonce=nonce,
        host_key=host_key,
        tdreport=report,
        quote=QuotingEnclave(pki, quote_version=quote_version).quote(report),
        provider="tdx_guest",
        generation=1,
        ccel_table=table.to_bytes(),
        ccel_data=log.to_bytes(),
        measurements=_measurements(td_info),
        kernel="6.17.0",
        os="Debian GNU/Linux 13 (trixie)",
    )
    return Recorded(
        evidence=evidence,
        expectation=Expectation(nonce=nonce, host_key=host_key, mrtd=td_info.mrtd),
        collateral=pki.collateral(),
        anchors=(TrustAnchor.from_certificate(pki.trust_anchor.public_bytes(Encoding.PEM)),),
        policy=ALLOW_EMULATED,
        time=time,
    )


def with_evidence(recorded: Recorded, **changes: Any) -> Recorded:
    """The same with other items in the evidence document."""
    return replace(recorded, evidence=replace(recorded.evidence, **changes))


def with_report(recorded: Recorded, change: Callable[[TdInfo], TdInfo]) -> Recorded:
    """The same with another TDINFO in the TDREPORT, its hash renewed. Its MAC is the host's to check."""
    report = recorded.report
    td_info = change(report.td_info)
    digest = hashlib.sha384(td_info.to_bytes()).digest()
    changed = replace(report, td_info=td_info, mac=replace(report.mac, tee_info_hash=digest))
    return with_evidence(recorded, tdreport=changed.to_bytes())


def with_quote(recorded: Recorded, change: Callable[[Quote], Quote]) -> Recorded:
    """The same with another quote that nobody has signed again."""
    return with_evidence(recorded, quote=change(recorded.quote).to_bytes())


def with_signed_quote(recorded: Recorded, keys: Keys, change: Callable[[Quote], Quote]) -> Recorded:
    """The same with another quote, signed by a fresh attestation key that the platform certifies."""
    return with_quote(recorded, lambda quote: signed(change(quote), keys))


def signed(quote: Quote, keys: Keys) -> Quote:
    """The quote with a fresh attestation key, certified and used to sign."""
    key = new_key()
    numbers = key.public_key().public_numbers()
    point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    digest = hashlib.sha256(point + quote.signature.qe_auth_data).digest()
    qe_report = replace(quote.signature.qe_report, report_data=digest + bytes(32))
    return replace(
        quote,
        signature=replace(
            quote.signature,
            attestation_key=point,
            qe_report=qe_report,
            qe_report_signature=raw_signature(keys.pck_key, qe_report.to_bytes()),
            signature=raw_signature(key, quote.signed_bytes),
        ),
    )


def with_td(recorded: Recorded, keys: Keys, **changes: Any) -> Recorded:
    """The same boot of another TD: TDREPORT, quote and measurement files all say `changes` of TDINFO."""
    changed = with_report(recorded, lambda td_info: replace(td_info, **changes))
    td_info = changed.report.td_info

    def body(quote: Quote) -> Quote:
        assert isinstance(quote.body, TdBody10)
        return replace(quote, body=type(quote.body).of_report(changed.report))

    changed = with_signed_quote(changed, keys, body)
    if changed.evidence.measurements is None:
        return changed
    return with_evidence(changed, measurements=_measurements(td_info))


def with_tcb_info(recorded: Recorded, keys: Keys, change: Callable[[dict[str, Any]], None]) -> Recorded:
    """The same with TCB info that `change` has edited, signed again."""
    document = _edited(recorded.collateral.tcb_info, TCB_INFO, keys, change)
    return replace(recorded, collateral=replace(recorded.collateral, tcb_info=document))


def with_qe_identity(recorded: Recorded, keys: Keys, change: Callable[[dict[str, Any]], None]) -> Recorded:
    """The same with a QE identity that `change` has edited, signed again."""
    document = _edited(recorded.collateral.qe_identity, QE_IDENTITY, keys, change)
    return replace(recorded, collateral=replace(recorded.collateral, qe_identity=document))


def with_pck_chain(recorded: Recorded, *chain: x509.Certificate) -> Recorded:
    """The same with another PCK certificate chain in the quote; the quote's signature does not cover it."""
    return with_quote(recorded, lambda quote: certified(quote, CERTIFICATION_PCK_CHAIN, pem(*chain)))


def certified(quote: Quote, kind: int, data: bytes) -> Quote:
    """The same quote with other certification data, which no signature covers."""
    return replace(quote, signature=replace(quote.signature, certification=CertificationData(kind, data)))


def naming_pck(quote: Quote, kind: int, **changes: Any) -> Quote:
    """The quote with data of type 1 to 3, which name its PCK certificate, as far as `changes` do not lie."""
    extension = read_chain(quote.signature.certification.data)[0].sgx_extension()
    ppid = {1: extension.ppid, 2: bytes(256), 3: bytes(384)}[kind]
    pce_id = int.from_bytes(extension.pce_id, "little")
    named = PlatformIdentity(ppid, extension.cpusvn, extension.pcesvn, pce_id)
    return certified(quote, kind, replace(named, **changes).to_bytes())


def with_events(recorded: Recorded, change: Callable[[tuple[Event, ...]], tuple[Event, ...]]) -> Recorded:
    """The same with other events in the log."""
    log = recorded.log
    return with_evidence(recorded, ccel_data=replace(log, events=change(log.events)).to_bytes())


def pki_in(directory: Path, time: datetime) -> Pki:
    """An emulated PKI below `directory`, with collateral that is valid at `time`."""
    return open_pki(directory / "pki", time)


def _edited(document: bytes, name: str, keys: Keys, change: Callable[[dict[str, Any]], None]) -> bytes:
    value = dict(SignedJson.parse(document, name).value)
    value = json.loads(json.dumps(value))
    change(value)
    inner = json.dumps(value, separators=(",", ":")).encode()
    return tcb.signed_document(name, inner, keys.tcb_signing_key)


def _report(pki: Pki, td_info: TdInfo, data: bytes) -> bytes:
    platform = pki.platform
    tcb_info = TeeTcbInfo(
        valid=bytes.fromhex("ff01030000000000"),
        tee_tcb_svn=platform.tee_tcb_svn,
        mrseam=platform.mrseam,
        mrsignerseam=platform.mrsignerseam,
        attributes=platform.seam_attributes,
        tee_tcb_svn2=platform.tee_tcb_svn,
    )
    mac = ReportMac(
        cpusvn=platform.cpusvn,
        tee_tcb_info_hash=hashlib.sha384(tcb_info.to_bytes()).digest(),
        tee_info_hash=hashlib.sha384(td_info.to_bytes()).digest(),
        report_data=data,
    )
    mac = replace(mac, mac=hmac.digest(pki.report_mac_key, mac.maced_bytes(), "sha256"))
    return TdReport(mac, tcb_info, td_info).to_bytes()


def _measurements(td_info: TdInfo) -> dict[str, bytes]:
    rtmrs = {f"rtmr{number}": value for number, value in enumerate(td_info.rtmrs)}
    return {
        "mrtd": td_info.mrtd,
        "mrconfigid": td_info.mrconfigid,
        "mrowner": td_info.mrowner,
        "mrownerconfig": td_info.mrownerconfig,
        **rtmrs,
    }


def _spec_id() -> SpecId:
    return SpecId(1, bytes(20), 0, 0, 2, 105, 2, ((ALG_SHA384, 48),), b"")


def _events() -> tuple[Event, ...]:
    def event(index: int, kind: int, data: bytes, hashed: bytes | None = None) -> Event:
        digest = hashlib.sha384(data if hashed is None else hashed).digest()
        return Event(index, kind, ((ALG_SHA384, digest),), data)

    separator = bytes(4)
    return (
        event(1, event_log.EV_EFI_HANDOFF_TABLES2, b"\x08TdxTable" + bytes(24), b"TD HOB"),
        event(1, event_log.EV_PLATFORM_CONFIG_FLAGS, b"ACPI DATA", b"tables"),
        event(1, event_log.EV_SEPARATOR, separator),
        event(2, event_log.EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        event(2, event_log.EV_SEPARATOR, separator),
        event(3, event_log.EV_IPL, b"grub_cmd: boot\0", b"boot"),
        event(3, event_log.EV_EVENT_TAG, b"initrd", b"contents"),
    )
