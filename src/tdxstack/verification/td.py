"""What the quote says about the TD (or enclave) itself, against the policy."""

from __future__ import annotations

from collections.abc import Iterator

from tdxstack.abi.quote import QuoteBody, TdBody10
from tdxstack.abi.sgx_report import SGX_FLAG_DEBUG, SgxReportBody
from tdxstack.abi.tdreport import (
    TD_ATTRIBUTE_DEBUG,
    TD_ATTRIBUTE_NAMES,
    TD_ATTRIBUTE_SEPT_VE_DISABLE,
    TD_UNTRUSTED_MASK,
    td_attribute_names,
)
from tdxstack.verification.policy import Policy
from tdxstack.verification.result import Check, Status, fail, judged, not_applicable, ok

_NAMED = sum(1 << bit for bit in TD_ATTRIBUTE_NAMES)


def check_debug(body: QuoteBody, policy: Policy) -> Check:
    """td.debug: the host cannot look into the TD (or enclave) through its DEBUG attribute."""
    if isinstance(body, SgxReportBody):
        debug = bool(body.flags & SGX_FLAG_DEBUG)
    else:
        debug = bool(body.td_attributes & TD_ATTRIBUTE_DEBUG)
    found = "on" if debug else "off"
    expected = "on or off" if policy.allow_debug else "off"
    return judged(
        "td.debug",
        policy.allow_debug or not debug,
        expected,
        found,
        "the host can read and change its memory",
    )


def check_attributes(body: QuoteBody, policy: Policy) -> Check:
    """td.attributes: no other attribute opens the TD to the host; those that the policy demands are on."""
    if isinstance(body, SgxReportBody):
        return not_applicable("td.attributes", "an SGX quote")
    attributes = body.td_attributes
    opening = attributes & TD_UNTRUSTED_MASK & ~TD_ATTRIBUTE_DEBUG
    missing = policy.required_attributes & ~attributes
    found = ", ".join(td_attribute_names(attributes)) or "none"
    expected = "no " + ", ".join(td_attribute_names(TD_UNTRUSTED_MASK & _NAMED & ~TD_ATTRIBUTE_DEBUG))
    if policy.required_attributes:
        expected += "; " + ", ".join(td_attribute_names(policy.required_attributes))
    if opening or missing:
        problems = [f"{name} opens the TD to the host" for name in td_attribute_names(opening)]
        problems += [f"{name} is off" for name in td_attribute_names(missing)]
        return fail("td.attributes", expected, found, "; ".join(problems))
    remarks = [f"{name} is not known" for name in td_attribute_names(attributes & ~_NAMED)]
    if not attributes & TD_ATTRIBUTE_SEPT_VE_DISABLE:
        remarks.append("SEPT_VE_DISABLE is off: the host can make the guest's memory accesses fault")
    if remarks:
        return Check("td.attributes", Status.WARNING, expected, found, "; ".join(remarks))
    return ok("td.attributes", expected, found)


def check_expected(body: QuoteBody, policy: Policy) -> Iterator[Check]:
    """td.expected.FIELD for each field that the policy gives a value for."""
    for name, value in sorted(policy.expected.items()):
        check_id = f"td.expected.{name}"
        actual = getattr(body, name, None)
        if not isinstance(actual, bytes):
            kind = "TD" if isinstance(body, TdBody10) else "enclave"
            yield fail(check_id, value.hex(), "none", f"quotes of this {kind} have no such field of bytes")
        else:
            yield judged(check_id, actual == value, value.hex(), actual.hex())
