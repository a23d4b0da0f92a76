"""What a quote says, decoded for people and programs. Nothing here is verified."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from tdxstack.abi.certification import (
    CERTIFICATION_NAMES,
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_PCK_LEAF,
    CertificationData,
)
from tdxstack.abi.quote import TEE_TYPE_TDX, Quote
from tdxstack.abi.sgx_report import SGX_FLAG_DEBUG, SgxReportBody
from tdxstack.abi.tdreport import td_attribute_names, xfam_names
from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import Certificate, Chain, read_chain
from tdxstack.verification.chains import stamp
from tdxstack.verification.emulated import is_emulated_fmspc
from tdxstack.verification.pck import ca_of
from tdxstack.verification.sgx_extension import SgxExtension

_MODULE_VERSIONS: Final = {0: "1.0", 1: "1.5", 3: "2.0"}
"""Byte 1 of TEE_TCB_SVN to the release line of the TDX module, as Intel's releases number them."""

_SVN_FIELDS: Final = ("tee_tcb_svn", "tee_tcb_svn2", "initial_tee_tcb_svn")
_ATTRIBUTE_FIELDS: Final = ("td_attributes", "initial_servtd_attributes", "current_servtd_attributes")


def quote_facts(quote: Quote) -> dict[str, Any]:
    """header, body, signature and trailing_bytes; bytes in hex, sets of bits as `{value, names}`."""
    header, section = quote.header, quote.signature
    return {
        "header": {
            "version": header.version,
            "attestation_key_type": header.attestation_key_type,
            "tee": "TDX" if header.tee_type == TEE_TYPE_TDX else "SGX",
            "reserved": header.reserved.hex(),
            "qe_vendor_id": header.qe_vendor_id.hex(),
            "user_data": header.user_data.hex(),
        },
        "body": {"type": quote.body.NAME, **_body_facts(quote.body)},
        "signature": {
            "signature": section.signature.hex(),
            "attestation_key": section.attestation_key.hex(),
            "qe_report": _body_facts(section.qe_report),
            "qe_report_signature": section.qe_report_signature.hex(),
            "qe_auth_data": section.qe_auth_data.hex(),
            "certification": _certification_facts(section.certification),
        },
        "trailing_bytes": len(quote.trailing),
    }


def quoted_pck(quote: Quote) -> dict[str, Any] | None:
    """`pck_facts` of the PCK certificate in the quote; None if it holds none that can be read."""
    try:
        chain = _chain(quote.signature.certification)
        return pck_facts(chain[0].sgx_extension(), ca_of(chain)) if chain else None
    except MalformedError:
        return None


def claims_emulated(quote: Quote) -> bool:
    """Whether the quote says of itself that it is emulated: by a marked certificate or by its FMSPC."""
    try:
        chain = _chain(quote.signature.certification)
        return any(certificate.is_emulated for certificate in chain) or (
            bool(chain) and is_emulated_fmspc(chain[0].sgx_extension().fmspc)
        )
    except MalformedError:
        return False


def pck_facts(extension: SgxExtension, ca: str) -> dict[str, Any]:
    """What a PCK certificate says of its platform; bytes in hex, `components` as 16 numbers."""
    instance = extension.platform_instance_id
    return {
        "fmspc": extension.fmspc.hex(),
        "pce_id": extension.pce_id.hex(),
        "cpusvn": extension.cpusvn.hex(),
        "components": list(extension.components),
        "pcesvn": extension.pcesvn,
        "ppid": extension.ppid.hex(),
        "sgx_type": extension.sgx_type_name,
        "platform_instance_id": instance.hex() if instance else None,
        "ca": ca,
    }


def module_facts(tee_tcb_svn: bytes) -> dict[str, Any]:
    """The TDX module that a TEE_TCB_SVN is of: its identity's `id`, release line (or null) and ISVSVN."""
    isvsvn, major = tee_tcb_svn[0], tee_tcb_svn[1]
    return {"id": f"TDX_{major:02X}", "version": _MODULE_VERSIONS.get(major), "isvsvn": isvsvn}


def _body_facts(body: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for field in fields(body):
        name, value = field.name, getattr(body, field.name)
        if name in _SVN_FIELDS:
            facts[name] = {"value": value.hex(), "module": module_facts(value)}
        elif name in _ATTRIBUTE_FIELDS:
            facts[name] = {"value": f"{value:016x}", "names": td_attribute_names(value)}
        elif name in ("xfam", "xfrm"):
            facts[name] = {"value": f"{value:016x}", "names": xfam_names(value)}
        elif name == "flags" and isinstance(body, SgxReportBody):
            names = ["DEBUG"] if value & SGX_FLAG_DEBUG else []
            facts[name] = {"value": f"{value:016x}", "names": names}
        elif name == "seam_attributes":
            facts[name] = f"{value:016x}"
        else:
            facts[name] = value.hex() if isinstance(value, bytes) else value
    return facts


def _certification_facts(certification: CertificationData) -> dict[str, Any]:
    """type, name, size; certificates or what identifies the platform; or the `problem` of reading them."""
    facts: dict[str, Any] = {
        "type": certification.type,
        "name": CERTIFICATION_NAMES.get(certification.type, "unknown"),
        "size": len(certification.data),
    }
    try:
        facts["certificates"] = [_certificate_facts(one) for one in _chain(certification)]
        platform = certification.platform
    except MalformedError as error:
        return {**facts, "certificates": [], "problem": error.message}
    if platform is not None:
        facts["platform"] = {
            "ppid": platform.ppid.hex(),
            "cpusvn": platform.cpusvn.hex(),
            "pcesvn": platform.pce_svn,
            "pce_id": None if platform.pce_id is None else f"{platform.pce_id:04x}",
        }
    return facts


def _certificate_facts(certificate: Certificate) -> dict[str, Any]:
    return {
        "name": certificate.name,
        "issuer": certificate.issuer_name,
        "serial_number": f"{certificate.serial_number:x}",
        "not_before": stamp(certificate.start),
        "not_after": stamp(certificate.end),
    }


def _chain(certification: CertificationData) -> Chain:
    if certification.type in (CERTIFICATION_PCK_LEAF, CERTIFICATION_PCK_CHAIN):
        return read_chain(certification.data)
    return ()
