"""Defects of other verifiers, one test for each that an implementation with the defect would fail.

They were found by reading the sources of these projects, at the commits named here, and their issues.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from tdxstack.abi.event_log import ALG_SHA384, EV_NO_ACTION, EV_SEPARATOR, Event, EventLog, SpecId
from tdxstack.abi.quote import Quote, TdBody10, TdBody15, TdBody15Ex
from tdxstack.errors import MalformedError
from tdxstack.measurement.mrtd import mrtd
from tdxstack.measurement.pe import Image
from tdxstack.measurement.replay import replay
from tdxstack.prediction.hardware import WANTED
from tdxstack.verification.log_checks import check_event_log
from tdxstack.verification.result import Status
from tdxstack.verification.tcb_info import TcbStatus
from tests.synthetic.evidence import Workshop
from tests.unit.abi import tdvf_images
from tests.unit.measurement import pe_images


def status_of(shop: Workshop, **items: Any) -> tuple[TcbStatus | None, bool]:
    """The TCB status of otherwise good evidence with these items, and whether it is accepted."""
    result = shop.evidence(items.pop("quote", None), **items).verify()
    return (result.tcb.status if result.tcb else None), result.accepted


def platform_status(status: str) -> Any:
    """An edit of TCB info after which every platform has this status; its TDX modules stay up to date."""

    def edit(value: dict[str, Any]) -> None:
        for level in value["tcbLevels"]:
            level["tcbStatus"] = status

    return edit


def module_status(status: str) -> Any:
    """An edit of TCB info after which every TDX module has this status; its platforms stay up to date."""

    def edit(value: dict[str, Any]) -> None:
        for module in value["tdxModuleIdentities"]:
            for level in module["tcbLevels"]:
                level["tcbStatus"] = status

    return edit


# go-tdx-guest.


@pytest.mark.parametrize("kind", [TdBody10, TdBody15])
def test_a_good_tdx_module_does_not_hide_an_old_platform(shop: Workshop, kind: type[TdBody10]) -> None:
    """go-tdx-guest (91f9a52): for TDX modules from 1.5 on, the status of the module alone is returned."""
    quote = shop.quote(shop.body(kind))
    for status in ("OutOfDate", "Revoked", "ConfigurationNeeded"):
        info = shop.tcb_info(platform_status(status))
        assert status_of(shop, quote=quote, tcb_info=info) == (TcbStatus(status), False)
    info = shop.tcb_info(module_status("OutOfDate"))
    assert status_of(shop, quote=quote, tcb_info=info) == (TcbStatus.OUT_OF_DATE, False)


def test_revocation_is_always_checked(shop: Workshop) -> None:
    """go-tdx-guest: `GetCollateral` and `CheckRevocations` are off by default. Here they cannot be."""
    for item in ("root_ca_crl", "pck_crl"):
        assert "pck.revocation" in shop.evidence().but(**{item: b""}).failing()
    revoked = shop.pck_crl(revoked=[shop.pck.serial_number])
    assert shop.evidence(pck_crl=revoked).failing() == ["pck.revocation"]


# dcap-qvl.


@pytest.mark.parametrize("kind", [TdBody10, TdBody15, TdBody15Ex])
def test_the_first_two_tdx_components_are_the_modules_own(shop: Workshop, kind: type[TdBody10]) -> None:
    """dcap-qvl (9bffe30) and attestation-rs (67ee36f): all 16 TDX components are compared, so that a platform
    whose level asks for a higher module than is loaded is out of date although the module's level is good."""

    def edit(value: dict[str, Any]) -> None:
        for level in value["tcbLevels"][:1]:
            components = level["tcb"]["tdxtcbcomponents"]
            components[0]["svn"] = components[1]["svn"] = 255

    quote = shop.quote(shop.body(kind))
    assert status_of(shop, quote=quote, tcb_info=shop.tcb_info(edit)) == (TcbStatus.UP_TO_DATE, True)

    def third(value: dict[str, Any]) -> None:
        for level in value["tcbLevels"][:1]:
            level["tcb"]["tdxtcbcomponents"][2]["svn"] = 255

    found = status_of(shop, quote=quote, tcb_info=shop.tcb_info(third))
    assert found == (TcbStatus.OUT_OF_DATE, False)


def test_a_module_of_tdx_1_0_compares_all_components(shop: Workshop) -> None:
    """The other side of the same rule: TDX 1.0 has no module identities, so there all 16 count."""

    def edit(value: dict[str, Any]) -> None:
        for level in value["tcbLevels"]:
            level["tcb"]["tdxtcbcomponents"][0]["svn"] = 12

    quote = shop.quote(shop.body(tee_tcb_svn=bytes((11, 0, 5)) + bytes(13)))
    assert status_of(shop, quote=quote, tcb_info=shop.tcb_info(edit)) == (TcbStatus.NOT_SUPPORTED, False)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_authentication_data_has_no_fixed_size(shop: Workshop, size: int) -> None:
    """dcap-qvl: other sizes than 32 are refused."""
    assert shop.evidence(shop.quote(auth_data=bytes(size))).failing() == []


def test_sept_ve_disable_and_service_tds_are_the_policys(shop: Workshop) -> None:
    """dcap-qvl: TDs without SEPT_VE_DISABLE (all of Azure's) or with a service TD are refused by default.

    Here both are told as warnings, unless a policy demands one or the other."""
    for body in (shop.body(td_attributes=0), shop.body(TdBody15, mrservicetd=b"s" * 48)):
        result = shop.evidence(shop.quote(body)).verify()
        assert result.accepted
        assert len([check for check in result.checks if check.status is Status.WARNING]) == 1
    strict = replace(shop.evidence().policy, required_attributes=1 << 28, service_tds=frozenset({bytes(48)}))
    for body, check in (
        (shop.body(TdBody15, td_attributes=0), "td.attributes"),
        (shop.body(TdBody15, mrservicetd=b"s" * 48), "td.service_td"),
    ):
        assert shop.evidence(shop.quote(body), policy=strict).failing() == [check]


# attestation-rs.


def test_tdx_module_identities_count(shop: Workshop) -> None:
    """attestation-rs (67ee36f): `tdxModuleIdentities` are ignored."""
    for status in ("OutOfDate", "Revoked"):
        info = shop.tcb_info(module_status(status))
        assert status_of(shop, tcb_info=info) == (TcbStatus(status), False)
    for edit in (
        lambda value: value.pop("tdxModuleIdentities"),
        lambda value: value["tdxModuleIdentities"].clear(),
        lambda value: value["tdxModuleIdentities"].pop(),
    ):
        failing = shop.evidence(tcb_info=shop.tcb_info(edit)).failing()
        assert failing == ["tcb.module", "tcb.status"]


@pytest.mark.parametrize("chain", [b"", b"none"])
def test_unsigned_collateral_is_worth_nothing(shop: Workshop, chain: bytes) -> None:
    """attestation-rs: collateral without its issuer chain is taken with a warning."""
    evidence = shop.evidence(tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain)
    assert evidence.failing() == ["tcb_info.signature", "qe_identity.signature"]


def test_expired_collateral_is_rejected(shop: Workshop) -> None:
    """attestation-rs: that collateral has expired is a flag in the result, judged by the present time."""
    for item, document, check in (
        ("tcb_info", shop.tcb_info(nextUpdate="2026-03-04T05:06:06Z"), "tcb_info.freshness"),
        ("qe_identity", shop.qe_identity(nextUpdate="2026-03-04T05:06:06Z"), "qe_identity.freshness"),
    ):
        assert shop.evidence().but(**{item: document}).failing() == [check]


# Measurement.


def test_mrtd_is_computed_in_both_orders() -> None:
    """quex: only the order of older hosts (all pages added, then all extended) is known."""
    result = mrtd(tdvf_images.image())
    assert result.single_pass != result.two_pass


@pytest.mark.parametrize("signatures", [(), (b"signature",)])
@pytest.mark.parametrize("tail", [b"", b"thirteen byte", bytes(7168)])
def test_programs_are_hashed_to_their_end_and_not_beyond(tail: bytes, signatures: tuple[bytes, ...]) -> None:
    """dstack-mr, and tdx-measure of virtee, fortanix and tinfoil: bytes behind the sections count only with a
    certificate table, and the file is padded to 8 bytes. edk2 hashes what there is, and pads nothing."""
    program = pe_images.program({".text": b"code"}, signatures=signatures, tail=tail if signatures else b"")
    image = program if signatures else program + tail
    table = Image.parse(image).certificates[1]
    found = Image.parse(image).digest()
    assert found == pe_images.digest(image, certificates=table)
    if tail and not signatures:
        assert found != pe_images.digest(program)
        padded = image + bytes(-len(image) % 8)
        assert (found == pe_images.digest(padded)) is (padded == image)


@pytest.mark.parametrize("kind", [TdBody10, TdBody15, TdBody15Ex])
def test_every_body_of_version_5_is_parsed(shop: Workshop, kind: type[TdBody10]) -> None:
    """evidence-api: parsing of version 5 is unfinished."""
    quote = shop.quote(shop.body(kind, rtmr3=b"3" * 48, report_data=b"r" * 64), version=5)
    body = Quote.parse(quote.to_bytes()).body
    assert isinstance(body, kind)
    assert (body.rtmr3, body.report_data) == (b"3" * 48, b"r" * 64)


def event(index: int, kind: int = EV_SEPARATOR, data: bytes = bytes(4)) -> Event:
    """An event with the digest of its data."""
    return Event(index, kind, ((ALG_SHA384, hashlib.sha384(data).digest()),), data)


def log_of(*events: Event) -> EventLog:
    """A crypto-agile log of these events."""
    return EventLog(SpecId(1, bytes(20), 0, 0, 2, 105, 2, ((ALG_SHA384, 48),), b""), events)


def test_ev_no_action_extends_nothing_wherever_it_is() -> None:
    """canonical/tdx (b24078e): the first event is taken for the specification ID whatever it is, and events
    of EV_NO_ACTION, whose register index may be anything, break the replay."""
    plain = log_of(event(1), event(2))
    for index in (0, 1, 4, 0xFFFFFFFF):
        idle = Event(index, EV_NO_ACTION, ((ALG_SHA384, bytes(48)),), b"StartupLocality\0\3")
        for events in ((idle, event(1), event(2)), (event(1), idle, event(2)), (event(1), event(2), idle)):
            parsed = EventLog.parse(log_of(*events).to_bytes())
            assert parsed.events == events
            assert replay(parsed.events) == replay(plain.events)


@pytest.mark.parametrize("index", [0, 5, 0xFFFFFFFF])
def test_events_of_no_rtmr_are_malformed(index: int) -> None:
    """canonical/tdx: register index 0 becomes -1, which in Python is the last register."""
    with pytest.raises(MalformedError, match="names register"):
        replay(log_of(event(1), event(index)).events)


def test_extensions_of_rtmr3_are_no_sign_of_tampering(shop: Workshop) -> None:
    """attestation-rs issue 65, trustee issue 1056, kettle issue 56: honest guests are refused because their
    kernel extends RTMR3 through sysfs, which appends no event to the log."""
    log = log_of(event(1), event(2), event(3))
    rtmrs = replay(log.events)
    fields: dict[str, Any] = {f"rtmr{number}": value for number, value in enumerate(rtmrs)}
    extended: Any = b"extended".ljust(48)
    body = shop.body(**fields | {"rtmr3": extended})
    checks = {check.id: check for check in check_event_log(log.to_bytes(), body)}
    assert [check.id for check in checks.values() if check.status in (Status.FAIL, Status.UNKNOWN)] == []
    assert checks["rtmr3.replay"].status is Status.WARNING
    assert "software" in checks["rtmr3.replay"].detail
    for register in ("rtmr0", "rtmr1", "rtmr2"):
        changed = replace(body, **{register: extended})
        failing = [c.id for c in check_event_log(log.to_bytes(), changed) if c.status is Status.FAIL]
        assert failing == [f"{register}.replay"]


def test_the_acpi_table_loader_is_qemus_own() -> None:
    """quex: what tells the firmware how to link the ACPI tables is put together from the tables.

    A prediction asks QEMU for the measured bytes of all three."""
    assert {"etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"} <= set(WANTED)
