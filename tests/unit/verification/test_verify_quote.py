from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdxstack.abi.quote import Quote, TdBody10, TdBody15, TdBody15Ex
from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError, UsageError
from tdxstack.quoting import tcb
from tdxstack.quoting.authority import raw_signature
from tdxstack.quoting.pki import Pki
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, MAX_CHAIN_SIZE, read_chain
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.memo import Memo
from tdxstack.verification.quote import QUOTE_CHECKS, QuoteResult, Verifier, verify_quote
from tdxstack.verification.result import Status
from tdxstack.verification.standing import Standing
from tdxstack.verification.tcb_info import TcbStatus
from tests.recorded_boot import (
    ALLOW_EMULATED,
    NOW,
    Keys,
    Recorded,
    certified,
    naming_pck,
    pki_in,
    signed,
    synthetic_boot,
    with_qe_identity,
    with_tcb_info,
)
from tests.synthetic.certificates import pem, revocations


def verify(boot: Recorded, quote: Quote | None = None, **changes: Any) -> QuoteResult:
    arguments: dict[str, Any] = {"time": boot.time, "anchors": boot.anchors, "policy": boot.policy, **changes}
    collateral = arguments.pop("collateral", boot.collateral)
    return verify_quote(quote or boot.quote, ParsedCollateral.parse(collateral), **arguments)


def bad(result: QuoteResult) -> list[str]:
    return [check.id for check in result.failures()]


def test_defaults_reject_emulated_evidence_even_under_its_own_root(boot: Recorded) -> None:
    result = verify(boot, policy=None)
    assert bad(result) == ["emulated.allowed"]
    assert result.emulated


def test_allowing_emulated_evidence_does_not_trust_its_root(boot: Recorded) -> None:
    result = verify(boot, anchors=(INTEL_SGX_ROOT_CA,))
    assert "pck.trust_anchor" in bad(result)
    assert "tcb_info.signature" in bad(result)
    assert result.emulated


def test_several_anchors_may_be_given(boot: Recorded) -> None:
    assert verify(boot, anchors=(INTEL_SGX_ROOT_CA, *boot.anchors)).accepted


def test_collateral_must_come_from_the_root_of_the_quote(boot: Recorded, tmp_path: Any) -> None:
    other = synthetic_boot(pki_in(tmp_path, NOW), NOW)
    result = verify(boot, collateral=other.collateral, anchors=(*boot.anchors, *other.anchors))
    assert bad(result) == ["crl.root", "crl.pck", "tcb_info.signature", "qe_identity.signature"]


def test_the_time_needs_a_zone(boot: Recorded) -> None:
    with pytest.raises(UsageError):
        verify(boot, time=NOW.replace(tzinfo=None))


@pytest.mark.parametrize("time", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_any_time_and_any_grace_is_handled(boot: Recorded, time: datetime) -> None:
    policy = replace(ALLOW_EMULATED, collateral_grace=timedelta.max, platform_grace=timedelta.max)
    assert not verify(boot, time=time, policy=policy).accepted


def test_there_must_be_an_anchor(boot: Recorded) -> None:
    with pytest.raises(UsageError):
        verify(boot, anchors=())


@pytest.mark.parametrize(
    ("time", "failing"),
    [
        (NOW + timedelta(days=31), {"crl.root", "crl.pck", "tcb_info.freshness", "qe_identity.freshness"}),
        (NOW - timedelta(days=1), {"crl.root", "crl.pck", "tcb_info.freshness", "qe_identity.freshness"}),
        (
            datetime(2051, 1, 1, tzinfo=UTC),
            {
                "pck.validity",
                "crl.root",
                "crl.pck",
                "tcb_info.signature",
                "tcb_info.freshness",
                "qe_identity.signature",
                "qe_identity.freshness",
            },
        ),
    ],
)
def test_everything_has_its_time(boot: Recorded, time: datetime, failing: set[str]) -> None:
    assert set(bad(verify(boot, time=time))) == failing


def test_collateral_can_be_given_grace(boot: Recorded) -> None:
    policy = replace(ALLOW_EMULATED, collateral_grace=timedelta(days=2))
    assert verify(boot, time=NOW + timedelta(days=31), policy=policy).accepted
    assert not verify(boot, time=NOW + timedelta(days=33), policy=policy).accepted


# Certification data.


def test_a_leaf_alone_takes_its_issuers_from_the_collateral(boot: Recorded, keys: Keys) -> None:
    assert verify(boot, certified(boot.quote, 4, pem(keys.pck))).accepted


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_quotes_without_pck_take_it_from_the_caller(boot: Recorded, pki: Pki, kind: int) -> None:
    quote = naming_pck(boot.quote, kind)
    result = verify(boot, quote)
    assert result.verdict == "rejected"
    assert f"certification data of type {kind}" in next(
        c.detail for c in result.checks if c.id == "pck.chain"
    )
    assert verify(boot, quote, pck_chain=pki.pck_chain).accepted


@pytest.mark.parametrize(
    ("kind", "lie"),
    [
        (1, {"ppid": b"x" * 16}),
        (1, {"cpusvn": bytes(16)}),
        (2, {"cpusvn": bytes(16)}),
        (3, {"pce_svn": 999}),
        (3, {"pce_id": 1}),
    ],
)
def test_the_pck_certificate_is_the_one_that_the_quote_names(
    boot: Recorded, pki: Pki, kind: int, lie: dict[str, Any]
) -> None:
    result = verify(boot, naming_pck(boot.quote, kind, **lie), pck_chain=pki.pck_chain)
    assert bad(result) == ["quote.certification"]


def test_encrypted_ppids_and_missing_pce_ids_are_not_compared(boot: Recorded, pki: Pki) -> None:
    for quote in (
        naming_pck(boot.quote, 2, ppid=b"x" * 256),
        naming_pck(boot.quote, 3, ppid=b"x" * 384),
        naming_pck(boot.quote, 1, pce_id=None),
    ):
        assert verify(boot, quote, pck_chain=pki.pck_chain).accepted


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_data_of_the_wrong_size_names_nothing(boot: Recorded, pki: Pki, kind: int) -> None:
    result = verify(boot, certified(boot.quote, kind, bytes(35)), pck_chain=pki.pck_chain)
    assert bad(result) == ["quote.certification"]


@pytest.mark.parametrize("kind", [0, 6, 7, 99])
def test_other_certification_data_is_not_accepted(boot: Recorded, pki: Pki, kind: int) -> None:
    quote = certified(boot.quote, kind, b"?")
    assert bad(verify(boot, quote, pck_chain=pki.pck_chain)) == ["quote.format"]


def test_the_chain_may_stand_in_any_order(boot: Recorded, keys: Keys) -> None:
    quote = certified(boot.quote, 5, pem(keys.root, keys.pck, keys.platform_ca) + b"\0")
    assert verify(boot, quote).accepted


def test_a_chain_of_two_is_not_enough(boot: Recorded, keys: Keys) -> None:
    result = verify(boot, certified(boot.quote, 5, pem(keys.pck, keys.platform_ca)))
    assert "pck.chain" in bad(result)
    assert "pck.trust_anchor" in bad(result)


def test_another_kind_of_leaf_is_not_a_pck_certificate(boot: Recorded, pki: Pki) -> None:
    result = verify(boot, certified(boot.quote, 5, pem(pki.tcb_signing, pki.root)))
    assert {"pck.chain", "quote.qe_report_signature", "tcb.status"} <= set(bad(result))


# Quote bodies.


@pytest.mark.parametrize("trailing", [b"", bytes(3000)])
def test_zero_padding_is_nothing_special(boot: Recorded, trailing: bytes) -> None:
    result = verify(boot, replace(boot.quote, trailing=trailing))
    assert {check.status for check in result.checks} == {Status.OK}


def test_other_trailing_bytes_are_told(boot: Recorded) -> None:
    result = verify(boot, replace(boot.quote, trailing=b"\0x"))
    assert result.accepted
    assert [check.id for check in result.checks if check.status is Status.WARNING] == ["quote.format"]


def test_authentication_data_may_have_any_length(boot: Recorded, keys: Keys) -> None:
    for data in (b"", b"x", bytes(1000)):
        quote = replace(boot.quote, signature=replace(boot.quote.signature, qe_auth_data=data))
        assert verify(boot, signed(quote, keys)).accepted


def td_body(quote: Quote) -> TdBody15:
    assert isinstance(quote.body, TdBody15)
    return quote.body


def test_every_td_body_is_verified(boot: Recorded, keys: Keys) -> None:
    body = td_body(boot.quote)
    plain = TdBody10.parse(body.to_bytes()[: TdBody10.SIZE])
    extended = TdBody15Ex.parse(body.to_bytes() + bytes(range(237)))
    for other in (plain, extended):
        quote = signed(replace(boot.quote, body=other), keys)
        assert verify(boot, quote).accepted
        assert bad(verify(boot, replace(quote, body=replace(other, xfam=1)))) == ["quote.signature"]


def test_a_service_td_does_not_forbid_acceptance(boot: Recorded, keys: Keys) -> None:
    body = replace(td_body(boot.quote), mrservicetd=b"s" * 48)
    assert verify(boot, signed(replace(boot.quote, body=body), keys)).accepted


def relaunched(boot: Recorded, keys: Keys, launch: int) -> Quote:
    body = td_body(boot.quote)
    svn = bytes((launch,)) + body.tee_tcb_svn[1:]
    return signed(replace(boot.quote, body=replace(body, tee_tcb_svn=svn)), keys)


def test_a_td_that_outlived_a_module_update_is_told_to_relaunch(boot: Recorded, keys: Keys) -> None:
    current = td_body(boot.quote).tee_tcb_svn2[0]
    result = verify(boot, relaunched(boot, keys, current - 1))
    assert bad(result) == ["tcb.status"]
    assert result.tcb is not None
    assert result.tcb.status is TcbStatus.TD_RELAUNCH_ADVISED
    assert result.tcb.current_status is TcbStatus.UP_TO_DATE
    assert result.to_json()["tcb_status"] == "TDRelaunchAdvised"
    policy = replace(ALLOW_EMULATED, accepted_tcb_statuses=frozenset({TcbStatus.TD_RELAUNCH_ADVISED}))
    assert verify(boot, relaunched(boot, keys, current - 1), policy=policy).accepted


def test_no_level_is_not_supported(boot: Recorded, keys: Keys) -> None:
    result = verify(boot, relaunched(boot, keys, 0))
    assert result.to_json()["tcb_status"] == "NotSupported"
    assert result.to_json()["advisory_ids"] == []
    assert bad(result) == ["tcb.status"]


# Status and policy.


def statuses(status: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for level in value["tcbLevels"]:
            level.update(tcbStatus=status, advisoryIDs=["INTEL-SA-2", "INTEL-SA-1"])

    return change


@pytest.mark.parametrize(
    "status",
    [
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.REVOKED,
    ],
)
def test_only_accepted_statuses_pass(boot: Recorded, keys: Keys, status: TcbStatus) -> None:
    changed = with_tcb_info(boot, keys, statuses(status.value))
    result = verify(changed)
    assert bad(result) == ["tcb.status"]
    assert result.tcb is not None
    assert (result.tcb.status, result.tcb.advisories) == (status, ("INTEL-SA-1", "INTEL-SA-2"))
    policy = replace(ALLOW_EMULATED, accepted_tcb_statuses=frozenset({status}))
    assert verify(changed, policy=policy).accepted


@pytest.mark.parametrize(
    ("platform", "qe", "accepted", "failing"),
    [
        ("UpToDate", "OutOfDate", {"UpToDate"}, ["qe.status"]),
        ("OutOfDate", "OutOfDate", {"UpToDate"}, ["tcb.status", "qe.status"]),
        ("UpToDate", "OutOfDate", {"OutOfDate"}, []),
        ("SWHardeningNeeded", "OutOfDate", {"UpToDate", "OutOfDate"}, []),
        ("ConfigurationNeeded", "OutOfDate", {"ConfigurationNeeded", "OutOfDate"}, ["qe.status"]),
        ("UpToDate", "Revoked", {"UpToDate", "OutOfDate"}, ["qe.status"]),
        ("UpToDate", "ConfigurationNeeded", {"UpToDate"}, []),
    ],
)
def test_the_converged_status_decides(
    boot: Recorded, keys: Keys, platform: str, qe: str, accepted: set[str], failing: list[str]
) -> None:
    """The verdict is Intel's: whether the converged status is accepted. The checks say whose fault it is."""
    changed = with_qe_identity(with_tcb_info(boot, keys, statuses(platform)), keys, statuses(qe))
    policy = replace(ALLOW_EMULATED, accepted_tcb_statuses=frozenset(map(TcbStatus, accepted)))
    result = verify(changed, policy=policy)
    assert bad(result) == failing
    assert result.tcb is not None
    assert result.accepted is (result.tcb.status in policy.accepted_tcb_statuses)


def test_out_of_date_platforms_can_be_given_grace(boot: Recorded, keys: Keys) -> None:
    changed = with_tcb_info(boot, keys, statuses("OutOfDate"))
    age = NOW - datetime(2024, 1, 1, tzinfo=UTC)
    policy = replace(
        ALLOW_EMULATED, accepted_tcb_statuses=frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE})
    )
    assert verify(changed, policy=policy).accepted
    assert verify(changed, policy=replace(policy, platform_grace=age)).accepted
    assert bad(verify(changed, policy=replace(policy, platform_grace=timedelta(days=1)))) == ["tcb.status"]


def test_debug_can_be_allowed(boot: Recorded, keys: Keys) -> None:
    quote = signed(replace(boot.quote, body=replace(td_body(boot.quote), td_attributes=1 << 28 | 1)), keys)
    assert bad(verify(boot, quote)) == ["td.debug"]
    assert verify(boot, quote, policy=replace(ALLOW_EMULATED, allow_debug=True)).accepted


def test_sept_ve_disable_is_demanded_only_if_asked(boot: Recorded, keys: Keys) -> None:
    quote = signed(replace(boot.quote, body=replace(td_body(boot.quote), td_attributes=0)), keys)
    result = verify(boot, quote)
    assert result.accepted
    assert [check.id for check in result.checks if check.status is Status.WARNING] == ["td.attributes"]
    policy = replace(ALLOW_EMULATED, required_attributes=1 << 28)
    assert bad(verify(boot, quote, policy=policy)) == ["td.attributes"]
    assert verify(boot, policy=policy).accepted


def test_attributes_without_a_name_are_told(boot: Recorded, keys: Keys) -> None:
    for bit, status in ((40, Status.WARNING), (7, Status.FAIL)):
        body = replace(td_body(boot.quote), td_attributes=1 << 28 | 1 << bit)
        result = verify(boot, signed(replace(boot.quote, body=body), keys))
        check = next(check for check in result.checks if check.id == "td.attributes")
        assert check.status is status
        assert f"BIT_{bit}" in check.detail


def test_expected_fields_are_all_compared(boot: Recorded) -> None:
    body = td_body(boot.quote)
    good = {
        "mrtd": (body.rtmr0, body.mrtd),
        "report_data": (body.report_data,),
        "mrservicetd": (bytes(48),),
    }
    result = verify(boot, policy=replace(ALLOW_EMULATED, expected=good))
    assert result.accepted
    assert [check.id for check in result.checks[len(QUOTE_CHECKS) :]] == [
        "td.expected.mrservicetd",
        "td.expected.mrtd",
        "td.expected.report_data",
    ]
    wrong: dict[str, tuple[bytes, ...]] = {
        "mrtd": (bytes(48), body.mrtd[:-1]),
        "rtmr0": (),
        "mrowner": (bytes(47),),
        "mrenclave": (bytes(32),),
        "xfam": (b"",),
    }
    result = verify(boot, policy=replace(ALLOW_EMULATED, expected=wrong))
    assert bad(result) == [f"td.expected.{name}" for name in sorted(wrong)]


def test_the_evaluation_floor_counts_for_both_documents(boot: Recorded) -> None:
    result = verify(boot, policy=replace(ALLOW_EMULATED, minimum_evaluation_number=10**6))
    assert bad(result) == ["tcb_info.freshness", "qe_identity.freshness"]


def test_tcb_info_of_sgx_does_not_serve_a_td(boot: Recorded, keys: Keys) -> None:
    changed = with_tcb_info(boot, keys, lambda value: value.update(id="SGX"))
    assert set(bad(verify(changed))) == {"tcb_info.fmspc", "tcb.module", "tcb.status"}


# Who may sign what.


def renamed(
    certificate: x509.Certificate, common_name: str, issuer: x509.Certificate, key: Any
) -> x509.Certificate:
    """The same certificate under another name or from another issuer."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.subject)
        .public_key(certificate.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256())


def test_a_pck_certificate_has_its_name(boot: Recorded, keys: Keys) -> None:
    pck = renamed(keys.pck, "SGX Something Certificate", keys.platform_ca, keys.platform_ca_key)
    assert bad(verify(boot, certified(boot.quote, 5, pem(pck, keys.platform_ca, keys.root)))) == ["pck.chain"]


def test_the_root_does_not_issue_pck_certificates(boot: Recorded, keys: Keys) -> None:
    pck = renamed(keys.pck, "SGX PCK Certificate", keys.root, keys.root_key)
    result = verify(boot, certified(boot.quote, 5, pem(pck, keys.root)))
    check = next(check for check in result.failures() if check.id == "pck.chain")
    assert "2 certificates, not 3" in check.detail


def test_a_list_must_name_its_issuer(boot: Recorded, keys: Keys) -> None:
    """A list of the right key under another name is that of another authority."""
    collateral = replace(boot.collateral, pck_crl=revocations(keys.root, keys.platform_ca_key, NOW))
    assert bad(verify(boot, collateral=collateral)) == ["crl.pck"]
    collateral = replace(boot.collateral, root_ca_crl=revocations(keys.platform_ca, keys.root_key, NOW))
    assert bad(verify(boot, collateral=collateral)) == ["crl.root"]


def test_a_revoked_tcb_signing_certificate_signs_nothing(boot: Recorded, pki: Pki, keys: Keys) -> None:
    revoked = revocations(keys.root, keys.root_key, NOW, revoked=(pki.tcb_signing.serial_number,))
    result = verify(boot, collateral=replace(boot.collateral, root_ca_crl=revoked))
    assert bad(result) == ["tcb_info.signature", "qe_identity.signature"]


def test_other_certificates_sign_no_tcb_info(boot: Recorded, pki: Pki, keys: Keys) -> None:
    body = SignedJson.parse(boot.collateral.tcb_info, "tcbInfo").body
    by_ca = replace(
        boot.collateral,
        tcb_info=tcb.signed_document("tcbInfo", body, keys.platform_ca_key),
        tcb_info_issuer_chain=pem(keys.platform_ca, keys.root),
    )
    assert bad(verify(boot, collateral=by_ca)) == ["tcb_info.signature"]
    signer = renamed(pki.tcb_signing, "SGX TCB Signing", keys.platform_ca, keys.platform_ca_key)
    below_ca = replace(boot.collateral, tcb_info_issuer_chain=pem(signer, keys.platform_ca, keys.root))
    assert bad(verify(boot, collateral=below_ca)) == ["tcb_info.signature"]


def test_module_attributes_must_be_zero_whatever_tcb_info_says(boot: Recorded, keys: Keys) -> None:
    def change(value: dict[str, Any]) -> None:
        for module in (value["tdxModule"], *value["tdxModuleIdentities"]):
            module["attributes"] = "01" + "00" * 7

    quote = signed(replace(boot.quote, body=replace(td_body(boot.quote), seam_attributes=1)), keys)
    assert bad(verify(with_tcb_info(boot, keys, change), quote)) == ["tcb.module"]


def with_qe_report(boot: Recorded, keys: Keys, **changes: Any) -> Quote:
    report = replace(boot.quote.signature.qe_report, **changes)
    signature = raw_signature(keys.pck_key, report.to_bytes())
    return replace(
        boot.quote,
        signature=replace(boot.quote.signature, qe_report=report, qe_report_signature=signature),
    )


def test_masks_select_what_counts_of_a_quoting_enclave(boot: Recorded, keys: Keys) -> None:
    report = boot.quote.signature.qe_report
    quote = with_qe_report(boot, keys, miscselect=1, flags=report.flags | 1 << 2, xfrm=3)
    assert bad(verify(boot, quote)) == ["qe.identity"]
    changed = with_qe_identity(boot, keys, lambda value: value.update(miscselectMask="FEFFFFFF"))
    assert verify(changed, quote).accepted


def test_the_rest_of_the_qe_report_data_is_zero(boot: Recorded, keys: Keys) -> None:
    data = boot.quote.signature.qe_report.report_data[:63] + b"x"
    assert bad(verify(boot, with_qe_report(boot, keys, report_data=data))) == ["quote.qe_report_binding"]


def test_a_verifier_remembers_no_verdict(boot: Recorded, keys: Keys, tmp_path: Any) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    later = NOW + timedelta(days=31)
    revoked = revocations(keys.platform_ca, keys.platform_ca_key, NOW, revoked=(keys.pck.serial_number,))
    tampered = replace(boot.quote, signature=replace(boot.quote.signature, qe_report_signature=bytes(64)))
    other = synthetic_boot(pki_in(tmp_path, NOW), NOW)
    for _ in range(2):
        for quote, collateral, time in (
            (boot.quote, boot.collateral, NOW),
            (boot.quote, boot.collateral, later),
            (boot.quote, replace(boot.collateral, pck_crl=revoked), NOW),
            (boot.quote, other.collateral, NOW),
            (other.quote, boot.collateral, NOW),
            (tampered, boot.collateral, NOW),
            (replace(boot.quote, body=replace(td_body(boot.quote), xfam=1)), boot.collateral, NOW),
            (certified(boot.quote, 4, pem(keys.pck)), boot.collateral, NOW),
        ):
            fresh = verify(boot, quote, collateral=collateral, time=time)
            for form in (collateral, ParsedCollateral.parse(collateral)):
                assert verifier.verify(quote, form, time=time) == fresh
    assert not Verifier(anchors=boot.anchors).verify(boot.quote, boot.collateral, time=NOW).accepted


def test_a_chain_of_the_caller_does_not_outlive_its_call(boot: Recorded, pki: Pki) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    quote = naming_pck(boot.quote, 3)
    assert verifier.verify(quote, boot.collateral, time=NOW, pck_chain=pki.pck_chain).accepted
    assert not verifier.verify(quote, boot.collateral, time=NOW).accepted


def test_issuers_of_a_leaf_are_those_of_the_collateral_at_hand(boot: Recorded, keys: Keys) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    quote = certified(boot.quote, 4, pem(keys.pck))
    without = replace(boot.collateral, pck_crl_issuer_chain=b"")
    assert verifier.verify(quote, boot.collateral, time=NOW).accepted
    assert not verifier.verify(quote, without, time=NOW).accepted


def test_what_a_verifier_remembers_is_bounded(boot: Recorded) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    for number in range(600):
        chain = boot.quote.signature.certification.data + b"\0" * number * 40
        result = verifier.verify(certified(boot.quote, 5, chain), boot.collateral, time=NOW)
        assert result.accepted is (len(chain) <= MAX_CHAIN_SIZE)
    known = [getattr(verifier, name) for name in Verifier.__slots__]
    assert max(len(memo._values) for memo in known if isinstance(memo, Memo)) <= 256
    assert all(len(key[0].data) <= MAX_CHAIN_SIZE for key in verifier._pcks._values)


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(days=2), timedelta.max])
def test_what_is_remembered_counts_only_while_everything_is_current(boot: Recorded, grace: timedelta) -> None:
    """In any order, at the ends of every validity and just outside: a verifier says what a new one says."""
    policy = replace(ALLOW_EMULATED, collateral_grace=grace)
    parsed = ParsedCollateral.parse(boot.collateral)
    chain = read_chain(boot.quote.signature.certification.data)
    assert parsed.tcb_info_chain.value and parsed.pck_crl.value and parsed.pck_crl.value.end
    assert parsed.tcb_info.value and parsed.root_ca_crl.value and parsed.root_ca_crl.value.end
    ends = [parsed.pck_crl.value.end, parsed.root_ca_crl.value.end, parsed.tcb_info.value.next_update]
    edges = {NOW, parsed.pck_crl.value.start, parsed.tcb_info.value.issue_date, *ends}
    edges |= {end + grace for end in ends if grace < timedelta.max}
    edges |= {edge for one in (*chain, *parsed.tcb_info_chain.value) for edge in (one.start, one.end)}
    second = timedelta(seconds=1)
    times = [edge + shift for edge in sorted(edges) for shift in (-second, 0 * second, second)]
    verifier = Verifier(anchors=boot.anchors, policy=policy)
    verdicts = set()
    for time in (*times, *reversed(times), NOW, *times):
        result = verifier.verify(boot.quote, boot.collateral, time=time)
        assert result == verify(boot, time=time, policy=policy), time
        verdicts.add(result.accepted)
    assert verdicts == {True, False}


def test_what_lasts_is_remembered(boot: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    assert verifier.verify(boot.quote, boot.collateral, time=NOW).accepted
    monkeypatch.delattr(Standing, "of")
    assert verifier.verify(boot.quote, boot.collateral, time=NOW + timedelta(days=1)).accepted
    with pytest.raises(AttributeError):
        verifier.verify(boot.quote, boot.collateral, time=NOW + timedelta(days=31))


def test_threads_may_share_a_verifier(boot: Recorded) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    times = [NOW + timedelta(days=days) for days in (-1, 0, 1, 31)] * 10
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda time: verifier.verify(boot.quote, boot.collateral, time=time).accepted, times)
        )
    assert results == [False, True, True, False] * 10


def test_times_of_other_zones_are_told_in_utc(boot: Recorded) -> None:
    zone = timezone(timedelta(hours=5))
    assert verify(boot, time=NOW.astimezone(zone)) == verify(boot)
    with pytest.raises(UsageError):
        verify(boot, time=datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))))


# Damage.


@pytest.mark.parametrize(
    ("item", "failing"),
    [
        ("pck_crl_issuer_chain", set()),
        ("root_ca_crl", {"crl.root", "pck.revocation"}),
        ("pck_crl", {"crl.pck", "pck.revocation"}),
        ("tcb_info_issuer_chain", {"tcb_info.signature"}),
        (
            "tcb_info",
            {"tcb_info.signature", "tcb_info.freshness", "tcb_info.fmspc", "tcb.module", "tcb.status"},
        ),
        ("qe_identity_issuer_chain", {"qe_identity.signature"}),
        ("qe_identity", {"qe_identity.signature", "qe_identity.freshness", "qe.identity", "qe.status"}),
    ],
)
@pytest.mark.parametrize("data", [b"", b"garbage", b"\x30\x82\xff\xff"])
def test_a_damaged_item_spoils_only_what_needs_it(
    boot: Recorded, item: str, failing: set[str], data: bytes
) -> None:
    collateral: Collateral = replace(boot.collateral, **{item: data})
    result = verify(boot, collateral=collateral)
    assert set(bad(result)) == failing
    assert [check.id for check in result.checks] == list(QUOTE_CHECKS)
    assert all(check.detail for check in result.failures())
    result.to_json()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 6000), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_means_nothing(boot: Recorded, offset: int, change: int) -> None:
    data = bytearray(boot.evidence.quote)
    data[offset % len(data)] ^= change
    try:
        quote = Quote.parse(bytes(data))
    except MalformedError:
        return
    result = verify(boot, quote)
    if result.accepted:  # line ends and the like in the PEM text
        assert replace(quote, signature=boot.quote.signature) == boot.quote
        assert quote.signature.certification.type == 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.sampled_from(Collateral.__slots__), st.integers(0, 6000), st.integers(1, 255))
def test_any_changed_byte_of_collateral_is_handled(
    boot: Recorded, item: str, offset: int, change: int
) -> None:
    data = bytearray(getattr(boot.collateral, item))
    data[offset % len(data)] ^= change
    result = verify(boot, collateral=replace(boot.collateral, **{item: bytes(data)}))
    if item in ("root_ca_crl", "pck_crl", "tcb_info", "qe_identity"):
        # Upper and lower case of hex digits in the signature is all that may differ.
        assert not result.accepted or bytes(data).lower() == getattr(boot.collateral, item).lower()
