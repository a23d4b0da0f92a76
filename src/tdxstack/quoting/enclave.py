"""The emulated TD quoting enclave: it turns the platform's own TDREPORTs into quotes and refuses all others.

Source: Intel DCAP, `quoting_enclave_tdqe.cpp`, for what is checked and which quote version a report gets. On
hardware the TDX module's MAC is checked by the processor; here the enclave shares the key with the emulator.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.abi.qgs import ErrorCode
from tdxstack.abi.quote import (
    CERTIFICATION_PCK_CHAIN,
    CertificationData,
    Quote,
    QuoteHeader,
    QuoteSignature,
    TdBody10,
    TdBody15,
)
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.abi.tdreport import REPORT_TYPE_TDX, REPORT_VERSIONS, TDREPORT_SIZE, TdReport
from tdxstack.errors import RejectedError
from tdxstack.quoting.authority import Key, new_key, raw_signature
from tdxstack.quoting.pki import Pki

QUOTE_VERSIONS: Final = (4, 5)

_AUTHENTICATION_DATA = bytes(range(32))
"""What Intel's QE puts there."""

_VALID_1_0 = bytes.fromhex("ff01")
_VALID_1_5 = bytes.fromhex("ff0103")
"""TEE_TCB_INFO.VALID, least significant byte first: the third byte says that TEE_TCB_SVN2 counts."""

_HINT = "only reports of TDs on this emulated platform are quoted, unchanged"


class ReportRefusedError(RejectedError):
    """A TDREPORT that the enclave does not sign. `code` is what the QGS answers."""

    def __init__(self, message: str, code: ErrorCode) -> None:
        super().__init__(message, hint=_HINT)
        self.code = code


class QuotingEnclave:
    """One instance of the enclave, with an attestation key of its own that the PCK certifies.

    `quote_version` 4 does as Intel's QE: version 4, and version 5 for a report that needs it (a TD that has
    outlived an update of the TDX module, or has a service TD). 5 asks for version 5 always.
    """

    def __init__(self, pki: Pki, *, quote_version: int = 4) -> None:
        self.pki = pki
        self._quote_version = quote_version
        self._key = new_key()
        self._attestation_key = _raw_public_key(self._key)
        self._qe_report = self._report()
        self._qe_report_signature = raw_signature(pki.pck_key, self._qe_report.to_bytes())

    @property
    def qe_id(self) -> bytes:
        """16 bytes that name this platform's quoting enclave, the same for every instance."""
        return hashlib.sha256(b"tdxstack emulated QE ID" + _raw_public_key(self.pki.pck_key)).digest()[:16]

    def quote(self, report: bytes) -> bytes:
        """The quote for a TDREPORT of 1024 bytes. Raises `ReportRefusedError`."""
        body = self._body(self._checked(report))
        header = QuoteHeader(
            version=5 if isinstance(body, TdBody15) else 4, user_data=self.qe_id.ljust(20, b"\0")
        )
        signature = QuoteSignature(
            signature=bytes(64),
            attestation_key=self._attestation_key,
            qe_report=self._qe_report,
            qe_report_signature=self._qe_report_signature,
            qe_auth_data=_AUTHENTICATION_DATA,
            certification=CertificationData(CERTIFICATION_PCK_CHAIN, self.pki.pck_chain),
        )
        unsigned = Quote(header, body, signature)
        signed = replace(signature, signature=raw_signature(self._key, unsigned.signed_bytes))
        return replace(unsigned, signature=signed).to_bytes()

    def _report(self) -> SgxReportBody:
        """The SGX report that binds the attestation key to this enclave."""
        platform = self.pki.platform
        return SgxReportBody(
            cpusvn=platform.cpusvn,
            flags=platform.qe_flags,
            xfrm=platform.qe_xfrm,
            mrenclave=platform.qe_mrenclave,
            mrsigner=platform.qe_mrsigner,
            isv_prod_id=platform.qe_isv_prod_id,
            isv_svn=platform.qe_isv_svn,
            report_data=hashlib.sha256(self._attestation_key + _AUTHENTICATION_DATA).digest() + bytes(32),
        )

    def _checked(self, data: bytes) -> TdReport:
        if len(data) != TDREPORT_SIZE:
            raise ReportRefusedError(
                f"TDREPORT has {len(data)} bytes, not {TDREPORT_SIZE}", ErrorCode.INVALID_SIZE
            )
        kind, subtype, version, reserved = data[:4]
        if (kind, subtype, reserved) != (REPORT_TYPE_TDX, 0, 0):
            raise ReportRefusedError(
                f"report type {kind:#04x}, subtype {subtype}, reserved {reserved} is no TDREPORT's",
                ErrorCode.INVALID_TYPE,
            )
        if version not in REPORT_VERSIONS:
            raise ReportRefusedError(
                f"TDREPORT version {version} is not among {REPORT_VERSIONS}", ErrorCode.INVALID_VERSION
            )
        report = TdReport.parse(data)
        mac = hmac.digest(self.pki.report_mac_key, report.mac.maced_bytes(), "sha256")
        if not hmac.compare_digest(mac, report.mac.mac):
            raise ReportRefusedError("the MAC of the TDREPORT is wrong", ErrorCode.INVALID_PARAMETER)
        if not report.tcb_info_binds():
            raise ReportRefusedError(
                "TEE_TCB_INFO does not have the hash in the TDREPORT", ErrorCode.INVALID_PARAMETER
            )
        if not report.td_info_binds():
            raise ReportRefusedError(
                "TDINFO does not have the hash in the TDREPORT", ErrorCode.INVALID_PARAMETER
            )
        _check_format(report)
        return report

    def _body(self, report: TdReport) -> TdBody10:
        has_svn2 = _has_svn2(report)
        outlived_update = has_svn2 and report.tcb_info.tee_tcb_svn != report.tcb_info.tee_tcb_svn2
        if self._quote_version == 4 and report.mac.version == 0 and not outlived_update:
            return TdBody10.of_report(report)
        body = TdBody15.of_report(report)
        return body if has_svn2 else replace(body, tee_tcb_svn2=body.tee_tcb_svn)


def _check_format(report: TdReport) -> None:
    """Refuse what a report of its version cannot hold."""
    if report.tcb_info.valid.rstrip(b"\0") not in (_VALID_1_0, _VALID_1_5):
        raise ReportRefusedError(
            f"TEE_TCB_INFO.VALID {report.tcb_info.valid.hex()} is neither TDX 1.0's nor 1.5's",
            ErrorCode.INVALID_PARAMETER,
        )
    reserved = [report.mac.reserved1, report.mac.reserved2, report.reserved, report.td_info.reserved]
    if report.mac.version == 0:
        reserved.append(report.td_info.servtd_hash)
    if any(any(field) for field in reserved):
        raise ReportRefusedError(
            f"reserved bytes of the version {report.mac.version} TDREPORT are set",
            ErrorCode.INVALID_PARAMETER,
        )


def _has_svn2(report: TdReport) -> bool:
    return report.tcb_info.valid.rstrip(b"\0") == _VALID_1_5


def _raw_public_key(key: Key) -> bytes:
    numbers: ec.EllipticCurvePublicNumbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
