"""Verification of a whole boot: the quote, what it is bound to, and all else that the TD says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote, TdBody10
from tdxstack.abi.tdreport import TdReport
from tdxstack.errors import MalformedError
from tdxstack.evidence.binding import report_data
from tdxstack.evidence.document import Evidence
from tdxstack.measurement.replay import REGISTER_NAMES, Rtmrs, replay
from tdxstack.verification import result
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, TrustAnchor
from tdxstack.verification.inputs import Loaded, ParsedCollateral, load
from tdxstack.verification.log_checks import check_log_digests, check_log_format, check_replay
from tdxstack.verification.policy import AnyPolicy
from tdxstack.verification.quote import QUOTE_CHECKS, QuoteResult, verify_quote
from tdxstack.verification.result import Check, fail, judged, not_applicable, unknown

BOOT_CHECKS: Final = (
    *QUOTE_CHECKS,
    "evidence.nonce",
    "evidence.host_key",
    "tdreport.hashes",
    "tdreport.quote",
    "measurements.sysfs",
    "mrtd.firmware",
    "ccel.table",
    "event_log.format",
    "event_log.digests",
    "rtmr0.replay",
    "rtmr1.replay",
    "rtmr2.replay",
    "rtmr3",
)
"""The ids of the checks in every result of `verify_boot`; `td.expected.*` may come in between."""

_ZERO: Final = bytes(48)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the verifier knows by itself.

    `nonce`: the 32 bytes it sent. `host_key`: the SSH host key (wire blob) that the channel showed, None if
    the evidence came over another channel. `mrtd`: computed from the firmware. `rtmr3`: zero for a TD whose
    software has not extended it, None if that cannot be known: no event log tells.
    """

    nonce: bytes
    host_key: bytes | None
    mrtd: bytes
    rtmr3: bytes | None = _ZERO


@dataclass(frozen=True, slots=True)
class Register:
    """A register as it should be and as the quote reports it; None where one of them is not known."""

    expected: bytes | None
    measured: bytes | None

    @property
    def match(self) -> bool:
        """Whether both are known and equal."""
        return self.expected is not None and self.expected == self.measured

    def to_json(self) -> dict[str, Any]:
        """expected and measured in hex or null, match."""
        return {
            "expected": self.expected.hex() if self.expected is not None else None,
            "measured": self.measured.hex() if self.measured is not None else None,
            "match": self.match,
        }


@dataclass(frozen=True, slots=True)
class BootResult:
    """The outcome of `verify_boot`. `quote` is None if the quote could not be read at all."""

    checks: tuple[Check, ...]
    registers: Mapping[str, Register]
    quote: QuoteResult | None
    emulated: bool

    @property
    def verdict(self) -> str:
        """`accepted` or `rejected`."""
        return result.verdict(self.checks)

    @property
    def accepted(self) -> bool:
        """Whether every check passed or does not apply."""
        return self.verdict == result.ACCEPTED

    def to_json(self) -> dict[str, Any]:
        """As `QuoteResult.to_json`, with the checks of the boot and `registers` {mrtd, rtmr0 to rtmr3}."""
        document: dict[str, Any] = self.quote.to_json() if self.quote else {}
        return {
            **document,
            "verdict": self.verdict,
            "emulated": self.emulated,
            "registers": {name: register.to_json() for name, register in self.registers.items()},
            "checks": [check.to_json() for check in self.checks],
        }


def verify_boot(
    evidence: Evidence,
    expectation: Expectation,
    collateral: ParsedCollateral,
    *,
    time: datetime,
    anchors: Sequence[TrustAnchor] = (INTEL_SGX_ROOT_CA,),
    policy: AnyPolicy | None = None,
) -> BootResult:
    """Verify what a TD says of its boot, as of `time`. Parameters and `UsageError` as with `verify_quote`.

    Bad evidence gives failed checks and never an exception.
    """
    quote = load(lambda: Quote.parse(evidence.quote))
    if quote.value is not None:
        outcome = verify_quote(quote.value, collateral, time=time, anchors=anchors, policy=policy)
        quote_checks = outcome.checks
    else:
        outcome = None
        quote_checks = _unread_quote(quote.problem)
    body = quote.then(_td_body)
    log = _log(evidence)
    rtmrs = log.then(lambda parsed: replay(parsed.events))
    registers = _registers(expectation, body, rtmrs)
    checks = (
        *quote_checks,
        check_nonce(evidence, expectation, body),
        check_host_key(evidence, expectation),
        *_report_checks(evidence, body),
        check_mrtd(registers["mrtd"], body),
        check_ccel_table(evidence),
        check_log_format(log),
        check_log_digests(log),
        *(_check_replay(number, registers, body.problem or rtmrs.problem) for number in range(3)),
        check_rtmr3(registers["rtmr3"], body),
    )
    return BootResult(checks, registers, outcome, outcome is not None and outcome.emulated)


def check_nonce(evidence: Evidence, expectation: Expectation, body: Loaded[TdBody10]) -> Check:
    """evidence.nonce: REPORTDATA binds the verifier's nonce and the host key of the document."""
    if body.value is None:
        return unknown("evidence.nonce", body.problem)
    wanted = report_data(expectation.nonce, evidence.host_key)
    detail = "the quote was not made for this nonce and host key: it is an old one or another TD's"
    return judged(
        "evidence.nonce",
        body.value.report_data == wanted,
        wanted.hex(),
        body.value.report_data.hex(),
        detail,
    )


def check_host_key(evidence: Evidence, expectation: Expectation) -> Check:
    """evidence.host_key: the key in the document is the one that the channel showed."""
    if expectation.host_key is None:
        return not_applicable("evidence.host_key", "the evidence did not come over SSH")
    return judged(
        "evidence.host_key",
        evidence.host_key == expectation.host_key,
        expectation.host_key.hex(),
        evidence.host_key.hex() or "none",
        "the evidence is about another machine than the one at the end of the channel",
    )


def check_report_hashes(report: Loaded[TdReport]) -> Check:
    """tdreport.hashes: TEE_TCB_INFO and TDINFO have the hashes that REPORTMACSTRUCT carries."""
    expected = "TEE_TCB_INFO and TDINFO as hashed in REPORTMACSTRUCT"
    if report.value is None:
        return fail("tdreport.hashes", expected, "no TDREPORT", report.problem)
    bad = []
    if not report.value.tcb_info_binds():
        bad.append("TEE_TCB_INFO has another hash")
    if not report.value.td_info_binds():
        bad.append("TDINFO has another hash")
    return judged("tdreport.hashes", not bad, expected, "; ".join(bad) or "equal", "the TDREPORT was changed")


def check_report_against_quote(report: Loaded[TdReport], body: Loaded[TdBody10]) -> Check:
    """tdreport.quote: TDREPORT and quote say the same in every field that both have."""
    if report.value is None or body.value is None:
        return unknown("tdreport.quote", report.problem or body.problem)
    quoted = body.value
    reported = type(quoted).of_report(report.value)
    # Extended bodies have more than a TDREPORT tells; a 1.0 TDREPORT has no TEE_TCB_SVN2.
    names = [field.name for field in fields(TdBody10)]
    differing = [name for name in names if getattr(quoted, name) != getattr(reported, name)]
    return judged(
        "tdreport.quote",
        not differing,
        "TDREPORT and quote agree",
        f"they differ in {', '.join(differing)}" if differing else "they agree",
        "; ".join(
            f"{name}: TDREPORT {_shown(reported, name)}, quote {_shown(quoted, name)}" for name in differing
        ),
    )


def check_measurements(evidence: Evidence, report: Loaded[TdReport]) -> Check:
    """measurements.sysfs: the kernel's measurement files show what the TDREPORT says."""
    files = evidence.measurements
    if files is None:
        reason = evidence.absent.get("measurements", "the kernel shows no measurement files")
        return not_applicable("measurements.sysfs", reason)
    if report.value is None:
        return unknown("measurements.sysfs", report.problem)
    td = report.value.td_info
    reported = {
        "mrtd": td.mrtd,
        "mrconfigid": td.mrconfigid,
        "mrowner": td.mrowner,
        "mrownerconfig": td.mrownerconfig,
        **{f"rtmr{number}": value for number, value in enumerate(td.rtmrs)},
    }
    shared = [name for name in files if name in reported]
    differing = [name for name in shared if files[name] != reported[name]]
    missing = [name for name in REGISTER_NAMES if name not in files]
    problems = [
        f"{name}: TDREPORT {reported[name].hex()}, file {files[name].hex()}" for name in differing
    ] + [f"there is no file for {name}" for name in missing]
    return judged(
        "measurements.sysfs",
        not problems,
        "measurement files and TDREPORT agree",
        f"{len(shared) - len(differing)} of {len(shared)} agree",
        "; ".join(problems),
    )


def check_mrtd(register: Register, body: Loaded[TdBody10]) -> Check:
    """mrtd.firmware: MRTD is what the firmware file gives."""
    if register.expected is None or register.measured is None:
        return unknown("mrtd.firmware", body.problem)
    return judged(
        "mrtd.firmware",
        register.match,
        register.expected.hex(),
        register.measured.hex(),
        "the TD was started with other firmware, or by a VMM that adds its pages in another order",
    )


def check_ccel_table(evidence: Evidence) -> Check:
    """ccel.table: the ACPI table is whole, is about TDX, and its log area holds the log."""
    expected = "a CCEL table of type TDX"
    table, data = evidence.ccel_table, evidence.ccel_data
    if table is None or data is None:
        return unknown("ccel.table", evidence.absent.get("ccel", "there is no CCEL table"))
    parsed = load(lambda: CcelTable.parse(table))
    if parsed.value is None:
        return fail("ccel.table", expected, "no CCEL table", parsed.problem)
    area = parsed.value.log_area_length
    found = f"type {parsed.value.cc_type}.{parsed.value.cc_subtype}, log area of {area} bytes"
    problems = []
    if not parsed.value.is_tdx:
        problems.append("the log is not a TD's")
    if len(data) > area:
        problems.append(f"the log of {len(data)} bytes does not fit its area")
    return judged("ccel.table", not problems, expected, found, "; ".join(problems))


def check_rtmr3(register: Register, body: Loaded[TdBody10]) -> Check:
    """rtmr3: as expected. Firmware never extends it, and software that does leaves no event in the log."""
    if register.measured is None:
        return unknown("rtmr3", body.problem)
    if register.expected is None:
        return not_applicable("rtmr3", f"software may extend it; it is {register.measured.hex()}")
    return judged(
        "rtmr3",
        register.match,
        register.expected.hex(),
        register.measured.hex(),
        "software in the TD has extended it",
    )


def _check_replay(number: int, registers: Mapping[str, Register], problem: str) -> Check:
    register = registers[f"rtmr{number}"]
    return check_replay(number, register.expected, register.measured, problem)


def _report_checks(evidence: Evidence, body: Loaded[TdBody10]) -> tuple[Check, ...]:
    report = load(lambda: TdReport.parse(evidence.tdreport))
    return (
        check_report_hashes(report),
        check_report_against_quote(report, body),
        check_measurements(evidence, report),
    )


def _unread_quote(problem: str) -> tuple[Check, ...]:
    first, *others = QUOTE_CHECKS
    return (
        fail(first, "a quote of version 4 or 5", "none", problem),
        *(unknown(check_id, "there is no quote") for check_id in others),
    )


def _td_body(quote: Quote) -> TdBody10:
    if not isinstance(quote.body, TdBody10):
        raise MalformedError("the quote is an SGX enclave's", hint="give the quote of a TD")
    return quote.body


def _log(evidence: Evidence) -> Loaded[EventLog]:
    data = evidence.ccel_data
    if data is None:
        return Loaded(None, evidence.absent.get("ccel", "there is no event log"))
    return load(lambda: EventLog.parse(data))


def _registers(expectation: Expectation, body: Loaded[TdBody10], rtmrs: Loaded[Rtmrs]) -> dict[str, Register]:
    replayed = rtmrs.value[:3] if rtmrs.value else (None, None, None)
    expected = (expectation.mrtd, *replayed, expectation.rtmr3)
    measured = (body.value.mrtd, *body.value.rtmrs) if body.value else (None,) * 5
    pairs = zip(REGISTER_NAMES, expected, measured, strict=True)
    return {name: Register(wanted, found) for name, wanted, found in pairs}


def _shown(body: TdBody10, name: str) -> str:
    value = getattr(body, name)
    return value.hex() if isinstance(value, bytes) else f"{value:016x}"
