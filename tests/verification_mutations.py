"""For each check of `verify_boot`, a change of a recorded boot after which that check fails and no other.

What a change breaks besides is signed again with the keys of the emulated platform, as somebody could who
holds them. The same table serves synthetic boots and recorded ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.quote import Quote
from tdxstack.measurement.digests import check_digest
from tdxstack.quoting.authority import new_key
from tdxstack.verification.policy import Policy
from tests.recorded_boot import (
    Keys,
    Recorded,
    with_events,
    with_evidence,
    with_pck_chain,
    with_qe_identity,
    with_quote,
    with_report,
    with_signed_quote,
    with_tcb_info,
    with_td,
)
from tests.synthetic.certificates import remade, revocations

Apply = Callable[[Recorded, Keys], Recorded]


@dataclass(frozen=True)
class Mutation:
    """`check` is what fails after `apply`; `unknown` are the checks that then lack what they look at."""

    id: str
    check: str
    apply: Apply
    unknown: tuple[str, ...] = ()


def flipped(data: bytes, offset: int = -1) -> bytes:
    """`data` with one bit changed."""
    changed = bytearray(data)
    changed[offset] ^= 1
    return bytes(changed)


def _signature(**changes: Callable[[Any], Any]) -> Apply:
    """Change fields of the quote's signature section."""

    def apply(recorded: Recorded, keys: Keys) -> Recorded:
        def change(quote: Quote) -> Quote:
            section = quote.signature
            new = {name: edit(getattr(section, name)) for name, edit in changes.items()}
            return replace(quote, signature=replace(section, **new))

        return with_quote(recorded, change)

    return apply


def _other_vendor(recorded: Recorded, keys: Keys) -> Recorded:
    return with_signed_quote(
        recorded, keys, lambda quote: replace(quote, header=replace(quote.header, qe_vendor_id=bytes(16)))
    )


def _unsigned_pck(recorded: Recorded, keys: Keys) -> Recorded:
    return with_pck_chain(recorded, remade(keys.pck, new_key()), keys.platform_ca, keys.root)


def _other_root(recorded: Recorded, keys: Keys) -> Recorded:
    key = new_key()
    root = remade(keys.root, key, key=key.public_key())
    return with_pck_chain(recorded, keys.pck, remade(keys.platform_ca, key), root)


def _expired_pck(recorded: Recorded, keys: Keys) -> Recorded:
    pck = remade(keys.pck, keys.platform_ca_key, end=recorded.time - timedelta(days=1))
    return with_pck_chain(recorded, pck, keys.platform_ca, keys.root)


def _future_pck(recorded: Recorded, keys: Keys) -> Recorded:
    pck = remade(keys.pck, keys.platform_ca_key, start=recorded.time + timedelta(days=1))
    return with_pck_chain(recorded, pck, keys.platform_ca, keys.root)


def _collateral(recorded: Recorded, **changes: bytes) -> Recorded:
    return replace(recorded, collateral=replace(recorded.collateral, **changes))


def _revoked_pck(recorded: Recorded, keys: Keys) -> Recorded:
    issued = recorded.time - timedelta(days=1)
    revoked = revocations(keys.platform_ca, keys.platform_ca_key, issued, revoked=(keys.pck.serial_number,))
    return _collateral(recorded, pck_crl=revoked)


def _revoked_ca(recorded: Recorded, keys: Keys) -> Recorded:
    issued = recorded.time - timedelta(days=1)
    revoked = revocations(keys.root, keys.root_key, issued, revoked=(keys.platform_ca.serial_number,))
    return _collateral(recorded, root_ca_crl=revoked)


def _old_root_crl(recorded: Recorded, keys: Keys) -> Recorded:
    issued = recorded.time - timedelta(days=31)
    return _collateral(recorded, root_ca_crl=revocations(keys.root, keys.root_key, issued))


def _old_pck_crl(recorded: Recorded, keys: Keys) -> Recorded:
    issued = recorded.time - timedelta(days=31)
    return _collateral(recorded, pck_crl=revocations(keys.platform_ca, keys.platform_ca_key, issued))


def _document(item: str) -> Apply:
    """Change the last digit of a signed document's signature."""

    def apply(recorded: Recorded, keys: Keys) -> Recorded:
        document: bytes = getattr(recorded.collateral, item)
        digit = b"1" if document[-3:-2] == b"0" else b"0"
        return _collateral(recorded, **{item: document[:-3] + digit + document[-2:]})

    return apply


def _set(edit: Callable[..., Recorded], **members: Any) -> Apply:
    """Change members of a signed document."""
    return lambda recorded, keys: edit(recorded, keys, lambda value: value.update(members))


def _next_update(edit: Callable[..., Recorded]) -> Apply:
    def apply(recorded: Recorded, keys: Keys) -> Recorded:
        past = (recorded.time - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _set(edit, nextUpdate=past)(recorded, keys)

    return apply


def _issued_later(edit: Callable[..., Recorded]) -> Apply:
    def apply(recorded: Recorded, keys: Keys) -> Recorded:
        future = (recorded.time + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _set(edit, issueDate=future)(recorded, keys)

    return apply


def _evaluation_floor(recorded: Recorded, keys: Keys) -> Recorded:
    policy = replace(recorded.policy, minimum_evaluation_number=21)
    changed = replace(recorded, policy=policy)
    return _set(with_qe_identity, tcbEvaluationDataNumber=21)(changed, keys)


def _levels(status: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for level in value["tcbLevels"]:
            level["tcbStatus"] = status

    return change


def _modules(**members: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for module in (value["tdxModule"], *value["tdxModuleIdentities"]):
            module.update(members)

    return change


def _module_levels(value: dict[str, Any]) -> None:
    for module in value["tdxModuleIdentities"]:
        _levels("OutOfDate")(module)


def _td(**changes: Callable[[Any], Any]) -> Apply:
    """Change fields of TDINFO everywhere."""

    def apply(recorded: Recorded, keys: Keys) -> Recorded:
        td_info = recorded.report.td_info
        return with_td(
            recorded, keys, **{name: edit(getattr(td_info, name)) for name, edit in changes.items()}
        )

    return apply


def _other_nonce(recorded: Recorded, keys: Keys) -> Recorded:
    nonce = flipped(recorded.expectation.nonce)
    return replace(recorded, expectation=replace(recorded.expectation, nonce=nonce))


def _other_host_key(recorded: Recorded, keys: Keys) -> Recorded:
    assert recorded.expectation.host_key is not None
    host_key = flipped(recorded.expectation.host_key)
    return replace(recorded, expectation=replace(recorded.expectation, host_key=host_key))


def _claimed_host_key(recorded: Recorded, keys: Keys) -> Recorded:
    """The channel shows another key, and the document claims it."""
    changed = _other_host_key(recorded, keys)
    return with_evidence(changed, host_key=changed.expectation.host_key)


def _other_firmware(recorded: Recorded, keys: Keys) -> Recorded:
    mrtd = flipped(recorded.expectation.mrtd)
    return replace(recorded, expectation=replace(recorded.expectation, mrtd=mrtd))


def _edited_report(recorded: Recorded, keys: Keys) -> Recorded:
    report = recorded.report
    td_info = replace(report.td_info, reserved=flipped(report.td_info.reserved))
    return with_evidence(recorded, tdreport=replace(report, td_info=td_info).to_bytes())


def _other_report(recorded: Recorded, keys: Keys) -> Recorded:
    return with_report(recorded, lambda td_info: replace(td_info, xfam=td_info.xfam ^ 1 << 9))


def _measurement(recorded: Recorded, keys: Keys) -> Recorded:
    assert recorded.evidence.measurements is not None
    files = dict(recorded.evidence.measurements)
    files["rtmr2"] = flipped(files["rtmr2"])
    return with_evidence(recorded, measurements=files)


def _table_type(recorded: Recorded, keys: Keys) -> Recorded:
    assert recorded.evidence.ccel_table is not None
    table = CcelTable.parse(recorded.evidence.ccel_table)
    return with_evidence(recorded, ccel_table=replace(table, cc_type=1).to_bytes())


def _table_checksum(recorded: Recorded, keys: Keys) -> Recorded:
    assert recorded.evidence.ccel_table is not None
    return with_evidence(recorded, ccel_table=flipped(recorded.evidence.ccel_table))


def _cut_log(recorded: Recorded, keys: Keys) -> Recorded:
    return with_evidence(recorded, ccel_data=recorded.log.without_padding().to_bytes()[:-1])


def _event_text(recorded: Recorded, keys: Keys) -> Recorded:
    """One bit of an event's data, where the digest covers it."""
    events = list(recorded.log.events)
    number = next(number for number, event in enumerate(events) if check_digest(event).status == "ok")
    events[number] = replace(events[number], data=flipped(events[number].data))
    return with_events(recorded, lambda _: tuple(events))


def _event_digest(register: int) -> Apply:
    """One bit of a digest in this RTMR, where the log cannot tell; else the last event once more."""

    def apply(recorded: Recorded, keys: Keys) -> Recorded:
        events = list(recorded.log.events)
        of_register = [
            number for number, event in enumerate(events) if event.mr_index == register + 1 and event.extends
        ]
        opaque = [number for number in of_register if check_digest(events[number]).status == "unknown"]
        if opaque:
            algorithm, digest = events[opaque[0]].digests[0]
            events[opaque[0]] = replace(events[opaque[0]], digests=((algorithm, flipped(digest)),))
        else:
            events.append(events[of_register[-1]])
        return with_events(recorded, lambda _: tuple(events))

    return apply


def _extra_event(register: int) -> Apply:
    def apply(recorded: Recorded, keys: Keys) -> Recorded:
        return with_events(
            recorded,
            lambda events: (
                *events,
                *[event for event in events if event.mr_index == register + 1 and event.extends][-1:],
            ),
        )

    return apply


def _strict_about_emulation(recorded: Recorded, keys: Keys) -> Recorded:
    return replace(recorded, policy=Policy())


def _unmarked_root(recorded: Recorded, keys: Keys) -> Recorded:
    """The emulated root's key certifies itself again, without the mark."""
    marked = {extension.oid for extension in keys.root.extensions} - {
        extension.oid for extension in keys.platform_ca.extensions
    }
    root = remade(keys.root, keys.root_key, without=marked)
    return with_pck_chain(recorded, keys.pck, keys.platform_ca, root)


def _rtmr3(rtmrs: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (*rtmrs[:3], flipped(rtmrs[3]))


_LOG_DEPENDENTS = ("event_log.digests", "rtmr0.replay", "rtmr1.replay", "rtmr2.replay")

MUTATIONS: tuple[Mutation, ...] = (
    Mutation("vendor", "quote.format", _other_vendor),
    Mutation("quote-signature", "quote.signature", _signature(signature=flipped)),
    Mutation("qe-report-signature", "quote.qe_report_signature", _signature(qe_report_signature=flipped)),
    Mutation("qe-auth-data", "quote.qe_report_binding", _signature(qe_auth_data=flipped)),
    Mutation("pck-signed-by-another", "pck.chain", _unsigned_pck),
    Mutation("other-root", "pck.trust_anchor", _other_root),
    Mutation("expired-pck", "pck.validity", _expired_pck),
    Mutation("future-pck", "pck.validity", _future_pck),
    Mutation("revoked-pck", "pck.revocation", _revoked_pck),
    Mutation("revoked-ca", "pck.revocation", _revoked_ca),
    Mutation("old-root-crl", "crl.root", _old_root_crl),
    Mutation(
        "root-crl-signature",
        "crl.root",
        lambda recorded, keys: _collateral(recorded, root_ca_crl=flipped(recorded.collateral.root_ca_crl)),
    ),
    Mutation("old-pck-crl", "crl.pck", _old_pck_crl),
    Mutation(
        "pck-crl-signature",
        "crl.pck",
        lambda recorded, keys: _collateral(recorded, pck_crl=flipped(recorded.collateral.pck_crl)),
    ),
    Mutation("tcb-info-signature", "tcb_info.signature", _document("tcb_info")),
    Mutation("old-tcb-info", "tcb_info.freshness", _next_update(with_tcb_info)),
    Mutation("future-tcb-info", "tcb_info.freshness", _issued_later(with_tcb_info)),
    Mutation("tcb-evaluation", "tcb_info.freshness", _evaluation_floor),
    Mutation("fmspc", "tcb_info.fmspc", _set(with_tcb_info, fmspc="00806F050000"), ("tcb.status",)),
    Mutation("pce-id", "tcb_info.fmspc", _set(with_tcb_info, pceId="0001"), ("tcb.status",)),
    Mutation(
        "mrsignerseam",
        "tcb.module",
        lambda recorded, keys: with_tcb_info(recorded, keys, _modules(mrsigner="11" * 48)),
    ),
    Mutation(
        "seam-attributes",
        "tcb.module",
        lambda recorded, keys: with_tcb_info(recorded, keys, _modules(attributes="01" + "00" * 7)),
    ),
    Mutation(
        "platform-status",
        "tcb.status",
        lambda recorded, keys: with_tcb_info(recorded, keys, _levels("ConfigurationNeeded")),
    ),
    Mutation(
        "module-status", "tcb.status", lambda recorded, keys: with_tcb_info(recorded, keys, _module_levels)
    ),
    Mutation("no-level", "tcb.status", _set(with_tcb_info, tcbLevels=[])),
    Mutation("qe-identity-signature", "qe_identity.signature", _document("qe_identity")),
    Mutation("old-qe-identity", "qe_identity.freshness", _next_update(with_qe_identity)),
    Mutation("future-qe-identity", "qe_identity.freshness", _issued_later(with_qe_identity)),
    Mutation("qe-mrsigner", "qe.identity", _set(with_qe_identity, mrsigner="22" * 32)),
    Mutation("qe-product", "qe.identity", _set(with_qe_identity, isvprodid=1)),
    Mutation("qe-attributes", "qe.identity", _set(with_qe_identity, attributes="13" + "00" * 15)),
    Mutation("qe-miscselect", "qe.identity", _set(with_qe_identity, miscselect="01000000")),
    Mutation("not-td-qe", "qe.identity", _set(with_qe_identity, id="QE")),
    Mutation(
        "qe-status",
        "qe.status",
        lambda recorded, keys: with_qe_identity(recorded, keys, _levels("OutOfDate")),
    ),
    Mutation("qe-no-level", "qe.status", _set(with_qe_identity, tcbLevels=[])),
    Mutation("debug-td", "td.debug", _td(attributes=lambda bits: bits | 1)),
    Mutation("profiled-td", "td.attributes", _td(attributes=lambda bits: bits | 1 << 5)),
    Mutation("emulated-not-allowed", "emulated.allowed", _strict_about_emulation),
    Mutation("emulated-root-unmarked", "emulated.allowed", _unmarked_root),
    Mutation("old-quote", "evidence.nonce", _other_nonce),
    Mutation("claimed-host-key", "evidence.nonce", _claimed_host_key),
    Mutation("other-host-key", "evidence.host_key", _other_host_key),
    Mutation("edited-tdreport", "tdreport.hashes", _edited_report),
    Mutation("other-tdreport", "tdreport.quote", _other_report),
    Mutation("measurement-file", "measurements.sysfs", _measurement),
    Mutation("other-firmware", "mrtd.firmware", _other_firmware),
    Mutation("other-mrtd", "mrtd.firmware", _td(mrtd=flipped)),
    Mutation("ccel-type", "ccel.table", _table_type),
    Mutation("ccel-checksum", "ccel.table", _table_checksum),
    Mutation("cut-log", "event_log.format", _cut_log, _LOG_DEPENDENTS),
    Mutation("event-text", "event_log.digests", _event_text),
    *(Mutation(f"event-digest-{n}", f"rtmr{n}.replay", _event_digest(n)) for n in range(3)),
    *(Mutation(f"extra-event-{n}", f"rtmr{n}.replay", _extra_event(n)) for n in range(3)),
    Mutation("rtmr3-extended", "rtmr3", _td(rtmrs=_rtmr3)),
)
