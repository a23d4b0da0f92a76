"""What a person can do about a check that failed."""

from __future__ import annotations

from typing import Final

from tdxstack.verification.quote import QUOTE_CHECKS
from tdxstack.verification.result import Check, Status
from tdxstack.verification.tcb_info import TcbStatus

_TAMPERED = "do not trust it: get a new quote from the TD itself, over a channel that nobody changes"
_COLLATERAL = "fetch collateral again, for this platform and this time (`tdx collateral fetch`, or --fetch)"
_STALE = f"{_COLLATERAL}; or allow some delay in a policy: collateral_grace"
_UPDATE = "have the operator update what is short; no policy accepts such a platform"
_UPDATE_OR_ACCEPT = "have the operator update what is short; or accept the status in a policy: tcb_status"
_NEVER_ACCEPTED = (TcbStatus.NOT_SUPPORTED.value, TcbStatus.REVOKED.value)
_LACKING = "mend what failed first: without it this cannot be judged"
_DIFFERS = "find out what was booted; if it is right, put its value into the policy: registers"
_UNLIKE_REFERENCE = "find out what was booted: `tdx compare` says what differs and why"
_RTMR3 = "if software in the TD is meant to extend RTMR3, its value is for that software to explain"
_LOG = "get the event log of this very boot; then compare its events with those of a boot that you trust"

ADVICE: Final[dict[str, str]] = {
    "quote.format": "get a quote from Intel's quoting enclave",
    "quote.certification": "give the PCK chain that the quote names: --pck-chain",
    "quote.signature": _TAMPERED,
    "quote.qe_report_signature": _TAMPERED,
    "quote.qe_report_binding": _TAMPERED,
    "pck.chain": "if the quote holds no chain, give the platform's: --pck-chain; do not trust a broken one",
    "pck.trust_anchor": "if you trust this root (pre-production, emulated), name it with --trust-anchor",
    "pck.validity": "ask for a time at which all are valid (--at), or have the platform certified anew",
    "pck.revocation": "do not trust this platform: Intel has revoked its certificate",
    "pck.fmspc": "use another platform, or add this one to the policy: fmspc",
    "pck.ca": "use another platform, or add the authority to the policy: pck_ca",
    "crl.root": _STALE,
    "crl.pck": _STALE,
    "tcb_info.signature": _COLLATERAL,
    "tcb_info.freshness": _STALE,
    "tcb_info.fmspc": _COLLATERAL,
    "tcb.module": "do not trust it unless a newer TCB info knows this TDX module: fetch collateral again",
    "tcb.status": _UPDATE_OR_ACCEPT,
    "tcb.advisories": "have the operator apply what the advisories ask for, or change the policy: advisories",
    "qe_identity.signature": _COLLATERAL,
    "qe_identity.freshness": _STALE,
    "qe.identity": "do not trust it: this quoting enclave is not Intel's",
    "qe.status": "have the operator update the quoting enclave; or accept the status in a policy: tcb_status",
    "td.debug": "launch the TD without the DEBUG attribute; a policy can accept debug TDs for tests: debug",
    "td.attributes": "launch the TD with other attributes, or change the policy: attributes",
    "td.service_td": "find out which service TD is bound; if it is right, name it in the policy: service_td",
    "td.nonce": "have the TD make a new quote for this nonce and key",
    "emulated.allowed": "for tests, allow it by name: --allow emulated; never where secrets are at stake",
    "policy.any_of": "see above for the policy that came nearest",
    "policy.all_of": "put a policy into the list",
    "evidence.nonce": "have the TD collect new evidence for this nonce",
    "evidence.host_key": "do not trust the channel: somebody else may be at its end",
    "tdreport.hashes": _TAMPERED,
    "tdreport.quote": _TAMPERED,
    "measurements.sysfs": "look at the guest's kernel: it shows other values than the TDX module",
    "mrtd.firmware": "give the firmware that the TD was to boot; if you did, the host used another one",
    "ccel.table": _LOG,
    "event_log.format": _LOG,
    "event_log.digests": _LOG,
    "rtmr0.replay": _LOG,
    "rtmr1.replay": _LOG,
    "rtmr2.replay": _LOG,
    "rtmr3": _RTMR3,
    "rtmr3.replay": _RTMR3,
}


def advice(check: Check) -> str:
    """What to do about a check that failed or could not be made; empty for a check that is not known."""
    if check.status is Status.UNKNOWN and check.id in QUOTE_CHECKS:
        return _LACKING
    if check.id.startswith("td.expected."):
        return _DIFFERS
    if check.id.startswith("reference."):
        return _UNLIKE_REFERENCE
    if check.id.startswith("policy."):
        return ADVICE["policy." + check.id.rpartition(".")[2]]
    if check.id == "tcb.status" and check.found.startswith(_NEVER_ACCEPTED):
        return _UPDATE
    return ADVICE.get(check.id, "")
