"""What a TDREPORT or an HCL report says, decoded for people and programs."""

from __future__ import annotations

from typing import Any

from tdxstack.abi.hcl_report import HASHES, REPORT_TYPE_NAMES, SIGNATURE, HclReport
from tdxstack.abi.tdreport import REPORT_TYPE_TDX, TdReport, td_attribute_names, xfam_names
from tdxstack.measurement.logs import refuse_other_evidence
from tdxstack.verification.emulated import EMULATED_MRSEAM
from tdxstack.verification.quote_facts import module_facts


def read_report(data: bytes) -> tuple[TdReport, HclReport | None]:
    """The TDREPORT in `data`, and the HCL report around it if there is one. Raises `MalformedError`."""
    if data.startswith(SIGNATURE):
        outer = HclReport.parse(data)
        return outer.tdreport, outer
    if data[:1] != bytes((REPORT_TYPE_TDX,)):
        refuse_other_evidence(data, "TDREPORT")
    return TdReport.parse(data), None


def is_emulated(report: TdReport) -> bool | None:
    """True if the report names the emulated TDX module. None otherwise: only the platform that made a report
    can check its MAC, so nothing in one proves hardware."""
    return True if report.tcb_info.mrseam == EMULATED_MRSEAM else None


def report_facts(report: TdReport) -> dict[str, Any]:
    """mac, tcb_info and td_info; bytes in hex, sets of bits as `{value, names}`."""
    mac, tcb, td = report.mac, report.tcb_info, report.td_info
    return {
        "mac": {
            "report_type": f"{mac.report_type:02x}",
            "subtype": mac.subtype,
            "version": mac.version,
            "cpusvn": mac.cpusvn.hex(),
            "tee_tcb_info_hash": mac.tee_tcb_info_hash.hex(),
            "tee_info_hash": mac.tee_info_hash.hex(),
            "report_data": mac.report_data.hex(),
            "mac": mac.mac.hex(),
        },
        "tcb_info": {
            "valid": tcb.valid.hex(),
            "tee_tcb_svn": _svn(tcb.tee_tcb_svn),
            "mrseam": tcb.mrseam.hex(),
            "mrsignerseam": tcb.mrsignerseam.hex(),
            "attributes": f"{tcb.attributes:016x}",
            "tee_tcb_svn2": _svn(tcb.tee_tcb_svn2),
        },
        "td_info": {
            "attributes": {"value": f"{td.attributes:016x}", "names": td_attribute_names(td.attributes)},
            "xfam": {"value": f"{td.xfam:016x}", "names": xfam_names(td.xfam)},
            "mrtd": td.mrtd.hex(),
            "mrconfigid": td.mrconfigid.hex(),
            "mrowner": td.mrowner.hex(),
            "mrownerconfig": td.mrownerconfig.hex(),
            **{f"rtmr{index}": value.hex() for index, value in enumerate(td.rtmrs)},
            "servtd_hash": td.servtd_hash.hex(),
        },
    }


def hcl_facts(report: HclReport) -> dict[str, Any]:
    """The HCL report's header, and its runtime data as a JSON object. Raises `MalformedError`."""
    return {
        "version": report.version,
        "request_type": report.request_type,
        "status": report.status,
        "report_type": REPORT_TYPE_NAMES.get(report.report_type, "unknown"),
        "hash": HASHES.get(report.hash_type, "unknown"),
        "runtime_data": report.runtime_claims(),
    }


def binding_facts(report: TdReport, outer: HclReport | None) -> dict[str, bool | None]:
    """Whether each part is the one that the hashes in the report are of; null for runtime data without it."""
    return {
        "tcb_info": report.tcb_info_binds(),
        "td_info": report.td_info_binds(),
        "runtime_data": outer.runtime_data_binds() if outer else None,
    }


def _svn(value: bytes) -> dict[str, Any]:
    return {"value": value.hex(), "module": module_facts(value)}
