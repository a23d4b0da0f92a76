"""What the quote says about the TD (or enclave) itself, against the policy."""

from __future__ import annotations

from collections.abc import Iterator

from tdxstack.abi.quote import QuoteBody, TdBody10, TdBody15
from tdxstack.abi.sgx_report import SGX_FLAG_DEBUG, SgxReportBody
from tdxstack.abi.tdreport import (
    TD_ATTRIBUTE_DEBUG,
    TD_ATTRIBUTE_NAMES,
    TD_ATTRIBUTE_SEPT_VE_DISABLE,
    TD_UNTRUSTED_MASK,
    td_attribute_names,
)
from tdxstack.evidence.binding import report_data
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
    """td.attributes: no other attribute opens the TD to the host; the policy's are on and off as it says."""
    if isinstance(body, SgxReportBody):
        wanted = policy.required_attributes | policy.forbidden_attributes
        if wanted:
            return fail("td.attributes", ", ".join(td_attribute_names(wanted)), "an SGX quote", "it has none")
        return not_applicable("td.attributes", "an SGX quote")
    attributes = body.td_attributes
    opening = attributes & TD_UNTRUSTED_MASK & ~TD_ATTRIBUTE_DEBUG
    missing = policy.required_attributes & ~attributes
    unwanted = policy.forbidden_attributes & attributes
    found = ", ".join(td_attribute_names(attributes)) or "none"
    expected = "no " + ", ".join(td_attribute_names(TD_UNTRUSTED_MASK & _NAMED & ~TD_ATTRIBUTE_DEBUG))
    if policy.required_attributes:
        expected += "; " + ", ".join(td_attribute_names(policy.required_attributes))
    if policy.forbidden_attributes:
        expected += "; not " + ", ".join(td_attribute_names(policy.forbidden_attributes))
    if opening or missing or unwanted:
        problems = [f"{name} opens the TD to the host" for name in td_attribute_names(opening)]
        problems += [f"{name} is off" for name in td_attribute_names(missing)]
        problems += [f"{name} is on" for name in td_attribute_names(unwanted)]
        return fail("td.attributes", expected, found, "; ".join(problems))
    remarks = [f"{name} is not known" for name in td_attribute_names(attributes & ~_NAMED)]
    if not attributes & TD_ATTRIBUTE_SEPT_VE_DISABLE:
        remarks.append("SEPT_VE_DISABLE is off: the host can make the guest's memory accesses fault")
    if remarks:
        return Check("td.attributes", Status.WARNING, expected, found, "; ".join(remarks))
    return ok("td.attributes", expected, found)


def check_demands(body: QuoteBody, policy: Policy) -> Iterator[Check]:
    """td.service_td, td.nonce and td.expected.FIELD, as far as the policy or the TD gives cause for them."""
    servtd = body.mrservicetd if isinstance(body, TdBody15) else None
    if policy.service_tds is not None or (servtd is not None and any(servtd)):
        yield _check_service_td(servtd, policy)
    if policy.nonce is not None or policy.bound_key:
        yield _check_nonce(body.report_data, policy)
    for name, values in sorted(policy.expected.items()):
        yield _check_expected(body, name, values)


def _check_service_td(servtd: bytes | None, policy: Policy) -> Check:
    """The service TD that is bound to this one, such as a migration TD, is one that the policy allows."""
    if servtd is None:
        detail = "the quote does not say which service TD is bound; only TD reports 1.5 do"
        return fail("td.service_td", "MRSERVICETD", "none", detail)
    found = servtd.hex() if any(servtd) else "no service TD"
    if policy.service_tds is None:
        detail = "a service TD can read or change parts of this TD's state, and the policy says nothing of it"
        return Check("td.service_td", Status.WARNING, "no service TD", found, detail)
    allowed = sorted(value.hex() if any(value) else "no service TD" for value in policy.service_tds)
    detail = "the service TD that is bound to this TD is not one that the policy allows"
    return judged("td.service_td", servtd in policy.service_tds, _one_of(allowed), found, detail)


def _check_nonce(reported: bytes, policy: Policy) -> Check:
    """REPORTDATA binds the nonce and the key."""
    if policy.nonce is None:
        return fail("td.nonce", "a nonce", "none", "a key is to be bound, but the policy has no nonce")
    wanted = report_data(policy.nonce, policy.bound_key)
    key = "this key" if policy.bound_key else "no key"
    detail = f"the quote was not made for this nonce and {key}: it is an old one or another TD's"
    return judged("td.nonce", reported == wanted, wanted.hex(), reported.hex(), detail)


def _check_expected(body: QuoteBody, name: str, values: tuple[bytes, ...]) -> Check:
    check_id, expected = f"td.expected.{name}", _one_of([value.hex() for value in values])
    actual = getattr(body, name, None)
    if not isinstance(actual, bytes):
        kind = "TD" if isinstance(body, TdBody10) else "enclave"
        return fail(check_id, expected, "none", f"quotes of this {kind} have no such field of bytes")
    return judged(check_id, actual in values, expected, actual.hex(), f"the policy expects another {name}")


def _one_of(values: list[str]) -> str:
    return " or ".join(values) or "nothing: no value satisfies all that was asked for"
