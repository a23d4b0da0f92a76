"""Every shape of quote that there is, of which many have never been published; each accepted and rejected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tdxstack.abi.quote import (
    CertificationData,
    PlatformIdentity,
    Quote,
    TdBody10,
    TdBody15,
    TdBody15Ex,
)
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import read_chain
from tdxstack.verification.tcb_info import TcbStatus
from tests.synthetic.certificates import pem
from tests.synthetic.evidence import ALLOW_EMULATED, Evidence, Workshop

Body = Callable[[Workshop], TdBody10]

BODIES: dict[str, tuple[int, type[TdBody10]]] = {
    "v4": (4, TdBody10),
    "v5-1.0": (5, TdBody10),
    "v5-1.5": (5, TdBody15),
    "v5-1.5-extended": (5, TdBody15Ex),
}


def enclave_evidence(shop: Workshop, version: int, **changes: Any) -> Evidence:
    """An SGX enclave's quote, with TCB info and QE identity for SGX."""
    quote = shop.quote(SgxReportBody(mrenclave=b"e" * 32, **changes), version=version)
    return shop.evidence(quote, tcb_info=shop.tcb_info(id="SGX"), qe_identity=shop.qe_identity(id="QE"))


@pytest.mark.parametrize("shape", BODIES)
def test_tds(shop: Workshop, shape: str) -> None:
    version, kind = BODIES[shape]
    quote = shop.quote(shop.body(kind), version=version)
    data = quote.to_bytes()
    assert Quote.parse(data) == quote
    assert shop.evidence(quote).failing() == []
    assert shop.evidence(shop.quote(shop.body(kind, td_attributes=1), version=version)).failing() == [
        "td.debug"
    ]
    # Every byte of the body is signed.
    start = len(quote.signed_bytes) - kind.SIZE
    for offset in range(start, start + kind.SIZE, 7):
        changed = bytearray(data)
        changed[offset] ^= 0x80
        assert "quote.signature" in shop.evidence(Quote.parse(bytes(changed))).failing()


@pytest.mark.parametrize("version", [3, 4, 5])
def test_enclaves(shop: Workshop, version: int) -> None:
    evidence = enclave_evidence(shop, version)
    assert Quote.parse(evidence.quote.to_bytes()) == evidence.quote
    assert evidence.failing() == []
    assert enclave_evidence(shop, version, flags=2).failing() == ["td.debug"]
    assert evidence.but(tcb_info=shop.tcb_info()).failing() == ["tcb_info.fmspc", "tcb.status"]
    assert evidence.but(qe_identity=shop.qe_identity()).failing() == ["qe.identity"]


def test_version_3_is_for_enclaves_alone(shop: Workshop) -> None:
    with pytest.raises(MalformedError, match="version 3"):
        Quote.parse(shop.quote(version=3).to_bytes())


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 4096, 0xFFFF])
def test_authentication_data_has_any_size(shop: Workshop, size: int) -> None:
    quote = shop.quote(auth_data=bytes(size))
    assert shop.evidence(quote).failing() == []
    longer = replace(quote.signature, qe_auth_data=bytes(size + 1)[:0xFFFF] or b"x")
    if longer != quote.signature:
        assert shop.evidence(replace(quote, signature=longer)).failing() == ["quote.qe_report_binding"]


# Certification data.


def identity(shop: Workshop, kind: int, *, pce_id: bool = True) -> CertificationData:
    """What a quoting enclave without a PCK certificate says instead; encrypted PPIDs are opaque here."""
    ppid = read_chain(shop.pck_chain())[0].sgx_extension().ppid
    platform = shop.platform
    data = PlatformIdentity(
        ppid={1: ppid, 2: bytes(256), 3: bytes(384)}[kind],
        cpusvn=platform.cpusvn,
        pce_svn=platform.pcesvn,
        pce_id=int.from_bytes(platform.pce_id, "little") if pce_id else None,
    ).to_bytes()
    return CertificationData(kind, data)


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("pce_id", [True, False])
def test_quotes_without_a_certificate_take_it_from_the_caller(
    shop: Workshop, other_shop: Workshop, version: int, kind: int, pce_id: bool
) -> None:
    body = SgxReportBody() if version == 3 else shop.body()
    quote = shop.quote(body, version=version, certification=identity(shop, kind, pce_id=pce_id))
    assert Quote.parse(quote.to_bytes()) == quote
    evidence = shop.evidence(quote)
    if version == 3:
        evidence = evidence.but(tcb_info=shop.tcb_info(id="SGX"), qe_identity=shop.qe_identity(id="QE"))
    assert {"pck.chain", "quote.qe_report_signature"} <= set(evidence.failing())
    assert evidence.but(pck_chain=shop.pck_chain()).failing() == []
    # Another platform's certificate, genuine as it is, does not fit; nor does half a chain.
    foreign = pem(other_shop.pck, other_shop.platform_ca, other_shop.root)
    wrong = evidence.but(pck_chain=foreign).failing()
    assert {"quote.qe_report_signature", "pck.trust_anchor"} <= set(wrong)
    assert "pck.chain" in evidence.but(pck_chain=pem(shop.pck, shop.platform_ca)).failing()


def test_a_certificate_alone_finds_its_chain_in_the_collateral(shop: Workshop, other_shop: Workshop) -> None:
    quote = shop.quote(certification=CertificationData(4, pem(shop.pck)))
    assert shop.evidence(quote).failing() == []
    issuers = pem(other_shop.platform_ca, other_shop.root)
    assert "pck.chain" in shop.evidence(quote, pck_crl_issuer_chain=issuers).failing()
    assert "pck.chain" in shop.evidence(quote, pck_crl_issuer_chain=b"").failing()
    foreign = shop.quote(certification=CertificationData(4, pem(other_shop.pck)))
    assert {"pck.chain", "quote.qe_report_signature"} <= set(shop.evidence(foreign).failing())


@pytest.mark.parametrize("end", [b"", b"\0", b"\n", b"\r\n\0"])
def test_a_chain_ends_in_any_way(shop: Workshop, end: bytes) -> None:
    chain = shop.pck_chain().rstrip() + end
    assert shop.evidence(shop.quote(chain=chain)).failing() == []
    assert shop.evidence(shop.quote(chain=chain.replace(b"\n", b"\r\n"))).failing() == []
    assert "pck.chain" in shop.evidence(shop.quote(chain=chain[: len(chain) // 2])).failing()


@pytest.mark.parametrize("kind", [0, 6, 7, 8, 0xFFFF])
def test_other_certification_data_certifies_nothing(shop: Workshop, kind: int) -> None:
    """6 holds a QE report and 7 a platform manifest: neither says which key certifies the platform."""
    quote = shop.quote(certification=CertificationData(kind, shop.pck_chain()))
    assert {"quote.format", "pck.chain"} <= set(shop.evidence(quote).failing())
    assert shop.evidence(quote, pck_chain=shop.pck_chain()).failing() == ["quote.format"]


# Statuses.


def levels(*statuses: str) -> Callable[[dict[str, Any]], None]:
    """TCB levels of these statuses, each a step lower than the one before; the platform reaches the last."""

    def edit(value: dict[str, Any]) -> None:
        best = value["tcbLevels"][0]
        value["tcbLevels"] = [
            {
                "tcb": {**best["tcb"], "pcesvn": best["tcb"]["pcesvn"] + len(statuses) - 1 - step},
                "tcbDate": f"2025-0{9 - step}-01T00:00:00Z",
                "tcbStatus": status,
                "advisoryIDs": [f"INTEL-SA-{step}"] if step else [],
            }
            for step, status in enumerate(statuses)
        ]

    return edit


@pytest.mark.parametrize("shape", BODIES)
@pytest.mark.parametrize(
    "status",
    [
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
    ],
)
def test_any_level(shop: Workshop, shape: str, status: str) -> None:
    version, kind = BODIES[shape]
    evidence = shop.evidence(
        shop.quote(shop.body(kind), version=version), tcb_info=shop.tcb_info(levels("UpToDate", status))
    )
    result = evidence.verify()
    assert evidence.failing() == ["tcb.status"]
    assert result.tcb is not None
    assert (result.tcb.status.value, result.tcb.advisories) == (status, ("INTEL-SA-1",))
    assert result.tcb.shortfalls
    policy = replace(ALLOW_EMULATED, accepted_tcb_statuses=frozenset({TcbStatus(status)}))
    assert evidence.but(policy=policy).failing() == []


def modules(good: int, old: int) -> Callable[[dict[str, Any]], None]:
    """TDX modules are up to date from ISVSVN `good` on, and known from `old` on."""

    def edit(value: dict[str, Any]) -> None:
        for module in value["tdxModuleIdentities"]:
            module["tcbLevels"][0]["tcb"]["isvsvn"] = good
            module["tcbLevels"][1]["tcb"]["isvsvn"] = old

    return edit


@pytest.mark.parametrize("kind", [TdBody15, TdBody15Ex])
def test_a_td_that_outlived_an_update_should_be_relaunched(shop: Workshop, kind: type[TdBody10]) -> None:
    """Launched under a module that is out of date by now, running under one that is not."""
    launched = bytes((8,)) + shop.platform.tee_tcb_svn[1:]
    info = shop.tcb_info(modules(good=11, old=8))
    evidence = shop.evidence(shop.quote(shop.body(kind, tee_tcb_svn=launched)), tcb_info=info)
    result = evidence.verify()
    assert evidence.failing() == ["tcb.status"]
    assert result.tcb is not None
    assert result.tcb.status is TcbStatus.TD_RELAUNCH_ADVISED
    assert result.tcb.current_status is TcbStatus.UP_TO_DATE
    accepting = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.TD_RELAUNCH_ADVISED})
    policy = replace(ALLOW_EMULATED, accepted_tcb_statuses=accepting)
    assert evidence.but(policy=policy).failing() == []
    # Without the update it is out of date; with an unknown module it is nothing.
    for current, status in ((8, TcbStatus.OUT_OF_DATE), (7, TcbStatus.NOT_SUPPORTED)):
        now = bytes((current,)) + shop.platform.tee_tcb_svn[1:]
        quote = shop.quote(shop.body(kind, tee_tcb_svn=launched, tee_tcb_svn2=now))
        found = evidence.but(quote=quote, policy=policy).verify()
        assert not found.accepted
        assert found.tcb is not None
        assert found.tcb.status is status


@pytest.mark.parametrize("launched", [11, 8])
@pytest.mark.parametrize("kind", [TdBody15, TdBody15Ex])
def test_a_td_under_a_revoked_module_is_revoked(shop: Workshop, kind: type[TdBody10], launched: int) -> None:
    """Whatever it was launched under. Intel's library, and who follows it to the letter, accepts this TD."""

    def edit(value: dict[str, Any]) -> None:
        modules(good=11, old=8)(value)
        for module in value["tdxModuleIdentities"]:
            revoked = {"tcb": {"isvsvn": 12}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "Revoked"}
            module["tcbLevels"].insert(0, revoked)

    svn, now = (bytes((number,)) + shop.platform.tee_tcb_svn[1:] for number in (launched, 12))
    quote = shop.quote(shop.body(kind, tee_tcb_svn=svn, tee_tcb_svn2=now))
    evidence = shop.evidence(quote, tcb_info=shop.tcb_info(edit))
    result = evidence.verify()
    assert evidence.failing() == ["tcb.status"]
    assert result.tcb is not None
    assert (result.tcb.status, result.tcb.current_status) == (TcbStatus.REVOKED, TcbStatus.REVOKED)


@pytest.mark.parametrize("kind", [TdBody15, TdBody15Ex])
def test_a_relaunch_does_not_configure(shop: Workshop, kind: type[TdBody10]) -> None:
    def edit(value: dict[str, Any]) -> None:
        modules(good=11, old=8)(value)
        levels("ConfigurationNeeded")(value)

    launched = bytes((8,)) + shop.platform.tee_tcb_svn[1:]
    quote = shop.quote(shop.body(kind, tee_tcb_svn=launched))
    result = shop.evidence(quote, tcb_info=shop.tcb_info(edit)).verify()
    assert result.tcb is not None
    assert result.tcb.status is TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED


def test_version_4_knows_of_no_update(shop: Workshop) -> None:
    """It reports the module of the launch alone, so the TD counts as out of date."""
    launched = bytes((8,)) + shop.platform.tee_tcb_svn[1:]
    quote = shop.quote(shop.body(tee_tcb_svn=launched))
    result = shop.evidence(quote, tcb_info=shop.tcb_info(modules(good=11, old=8))).verify()
    assert result.tcb is not None
    assert (result.tcb.status, result.tcb.current_status) == (TcbStatus.OUT_OF_DATE, None)


# Revocation.


def test_a_revoked_platform(shop: Workshop) -> None:
    serial = shop.pck.serial_number
    for revoked, failing in (
        ([serial], ["pck.revocation"]),
        ([1, serial, 2], ["pck.revocation"]),
        ([serial + 1, serial - 1], []),
        ([shop.platform_ca.serial_number], []),
    ):
        assert shop.evidence(pck_crl=shop.pck_crl(revoked=revoked)).failing() == failing


def test_revoked_authorities(shop: Workshop) -> None:
    for certificate, failing in (
        (shop.platform_ca, ["pck.revocation"]),
        (shop.root, ["pck.revocation", "tcb_info.signature", "qe_identity.signature"]),
        (shop.tcb_signing, ["tcb_info.signature", "qe_identity.signature"]),
        (shop.pck, []),
    ):
        crl = shop.root_crl(revoked=[certificate.serial_number])
        assert shop.evidence(root_ca_crl=crl).failing() == failing


def test_a_long_list_is_read_to_its_end(shop: Workshop) -> None:
    numbers = [*range(1, 3000), shop.pck.serial_number]
    assert shop.evidence(pck_crl=shop.pck_crl(revoked=numbers)).failing() == ["pck.revocation"]
    assert shop.evidence(pck_crl=shop.pck_crl(revoked=numbers[:-1])).failing() == []
