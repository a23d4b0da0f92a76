"""The sets of the public index, through the commands as users give them: exit codes and JSON."""

from __future__ import annotations

import base64
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.abi.quote import TdBody10, TdBody15, TdBody15Ex
from tdxstack.verification.quote import QUOTE_CHECKS
from tests.conformance import vectors
from tests.conformance.sets import COS_113, SETS, Set, eval18
from tests.conformance.vectors import CC_API, GO_EVENTLOG, GO_TDX_GUEST, GUEST_COMPONENTS, INTEL_QVL
from tests.synthetic.certificates import pem, remade
from tests.synthetic.evidence import NOW, Workshop
from tests.unit.cli.verification_files import call

Capsys = pytest.CaptureFixture[str]
STATUSES = {"ok", "fail", "warning", "not_applicable", "unknown"}


def path(name: str) -> str:
    """The file of a vector."""
    return str(vectors.FOLDER / name)


def verify(capsys: Capsys, quote: str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the document of `tdx quote verify`."""
    done = call(capsys, "quote", "verify", quote, *options, "--json")
    return done.code, json.loads(done.out)


def failing(document: dict[str, Any]) -> set[str]:
    """The checks that forbid acceptance."""
    return {check["id"] for check in document["checks"] if check["status"] in ("fail", "unknown")}


def well_formed(document: dict[str, Any]) -> None:
    """The members that every answer has."""
    assert {"verdict", "tcb_status", "advisory_ids", "checks", "quote", "pck", "emulated"} <= set(document)
    assert document["advisory_ids"] == sorted(document["advisory_ids"])
    for check in document["checks"]:
        assert {"id", "status", "expected", "found", "detail"} <= set(check)
        assert check["status"] in STATUSES
    assert [check["id"] for check in document["checks"]][: len(QUOTE_CHECKS)] == list(QUOTE_CHECKS)


@pytest.mark.vectors
@pytest.mark.parametrize("row", SETS.values(), ids=list(SETS))
def test_sets_of_the_index(capsys: Capsys, row: Set) -> None:
    """Quotes in binary and in hexadecimal, collateral in dcap-qvl's form, as they were published."""
    code, document = verify(
        capsys, path(row.quote), "--collateral", path(row.collateral), "--at", row.time.isoformat()
    )
    well_formed(document)
    assert (code, document["verdict"]) == ((1, "rejected") if row.failing else (0, "accepted"))
    assert document["tcb_status"] == row.status.value
    assert failing(document) == set(row.failing)
    assert document["emulated"] is False
    if row.advisories:
        assert document["advisory_ids"] == list(row.advisories)
    fmspc = document["pck"]["fmspc"]
    assert re.fullmatch("[0-9a-f]{12}", fmspc)
    derived = re.search(r"collateral-([0-9a-f]{12})-", row.collateral)
    assert derived is None or derived[1] == fmspc


@pytest.mark.vectors
def test_set_23_the_sandbox_root_is_not_trusted(capsys: Capsys) -> None:
    collateral = path(eval18("b0c06f000000"))
    code, document = verify(
        capsys, path(CC_API + "quote.bin"), "--collateral", collateral, "--at", "2025-12-01T00:00:00Z"
    )
    well_formed(document)
    assert code == 1
    assert "pck.trust_anchor" in failing(document)
    assert document["pck"]["fmspc"] == "10806f070000"


@pytest.mark.vectors
def test_a_quote_and_its_event_log(capsys: Capsys) -> None:
    """The same quote with its own log, and with the two logs in which a separator was doubled."""
    options = ("--collateral", path(eval18("00806f050000")), "--at", "2025-12-01T00:00:00Z", "--event-log")
    _, document = verify(capsys, path(COS_113), *options, path(GO_TDX_GUEST + "ccel/ccel_data.dat"))
    assert failing(document) == {"tcb.status"}
    for name in ("cos-113-intel-tdx-dupe-separator.bin", "cos-113-intel-tdx-dupe-separator-unpadded.bin"):
        log = path(GO_EVENTLOG + "eventlogs/ccel/" + name)
        code, document = verify(capsys, path(COS_113), *options, log)
        assert code == 1
        assert failing(document) > {"tcb.status"}


@pytest.mark.vectors
@pytest.mark.parametrize(
    ("log", "quote", "matches"),
    [
        (GO_TDX_GUEST + "ccel/ccel_data.dat", COS_113, [True, True, True, True]),
        (GO_EVENTLOG + "eventlogs/ccel/cos-113-intel-tdx.bin", COS_113, [True, True, True, True]),
        (CC_API + "ccel_data.bin", CC_API + "quote.bin", [True, True, False, True]),
        (
            GO_EVENTLOG + "eventlogs/ccel/cos-113-intel-tdx-dupe-separator.bin",
            COS_113,
            [False, False, True, True],
        ),
    ],
)
def test_pairs_of_the_index(capsys: Capsys, log: str, quote: str, matches: list[bool]) -> None:
    done = call(capsys, "eventlog", "replay", path(log), "--quote", path(quote), "--json")
    document = json.loads(done.out)
    assert [document["matches"][f"rtmr{number}"] for number in range(4)] == matches
    assert done.code == (0 if all(matches) else 1)
    assert all(re.fullmatch("[0-9a-f]{96}", document["registers"][f"rtmr{number}"]) for number in range(4))


@pytest.mark.vectors
def test_tdreports(capsys: Capsys) -> None:
    good = call(capsys, "report", "show", path(GUEST_COMPONENTS + "tdx_report_1.bin"), "--json")
    assert good.code == 0
    assert json.loads(good.out)
    random = call(capsys, "report", "show", path(GO_TDX_GUEST + "report.dat"), "--json")
    assert random.code == 2
    assert "report type" in random.err


@pytest.mark.vectors
def test_a_quote_without_certificate_takes_a_chain(capsys: Capsys, tmp_path: Path) -> None:
    """Intel's sample for SGX, of certification type 1."""
    chain = tmp_path / "chain.pem"
    chain.write_bytes(vectors.read(INTEL_QVL + "pckCert.pem") + vectors.read(INTEL_QVL + "pckSignChain.pem"))
    options = (
        "--collateral", path(eval18("00806f050000")),
        "--trust-anchor", path(INTEL_QVL + "trustedRootCaCert.pem"),
        "--at", "2020-01-01T00:00:00Z",
    )  # fmt: skip
    quote = path(INTEL_QVL + "quote.dat")
    code, document = verify(capsys, quote, *options, "--pck-chain", str(chain))
    assert code == 1
    assert not failing(document) & {"quote.signature", "quote.qe_report_signature", "pck.chain"}
    _, without = verify(capsys, quote, *options)
    assert failing(without) >= {"quote.qe_report_signature", "pck.chain"}


# The same of synthetic evidence, which is always there.


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("commands"))


def files(shop: Workshop, directory: Path, **changes: Any) -> list[str]:
    """Evidence in files, as arguments of `tdx quote verify`; `changes` as in `Evidence.but`."""
    evidence = shop.evidence(changes.pop("quote", None), **changes)
    quote, collateral, root = (directory / name for name in ("quote.bin", "collateral.json", "root.pem"))
    quote.write_bytes(evidence.quote.to_bytes())
    collateral.write_bytes(evidence.collateral.to_json())
    root.write_bytes(shop.pki.trust_anchor_pem)
    return [
        str(quote), "--collateral", str(collateral), "--trust-anchor", str(root), "--at", NOW.isoformat(),
    ]  # fmt: skip


def test_the_sides_of_a_verdict(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    arguments = files(shop, tmp_path)
    code, document = verify(capsys, *arguments, "--allow", "emulated")
    well_formed(document)
    assert (code, document["verdict"], document["tcb_status"]) == (0, "accepted", "UpToDate")
    assert document["emulated"] is True
    code, document = verify(capsys, *arguments)
    assert (code, failing(document)) == (1, {"emulated.allowed"})


def test_each_rejection_names_its_check(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({"pck_crl": shop.pck_crl(revoked=[shop.pck.serial_number])}, "pck.revocation", "UpToDate"),
        (
            {"root_ca_crl": shop.root_crl(revoked=[shop.platform_ca.serial_number])},
            "pck.revocation",
            "UpToDate",
        ),
        ({"tcb_info": shop.tcb_info(nextUpdate="2026-03-01T00:00:00Z")}, "tcb_info.freshness", "UpToDate"),
        ({"tcb_info": shop.tcb_info(tcbLevels=[])}, "tcb.status", "NotSupported"),
        ({"quote": shop.quote(shop.body(td_attributes=1))}, "td.debug", "UpToDate"),
        ({"quote": shop.quote(shop.body(TdBody15, mrsignerseam=b"x" * 48))}, "tcb.module", "UpToDate"),
    ]
    for changes, check, status in cases:
        code, document = verify(capsys, *files(shop, tmp_path, **changes), "--allow", "emulated")
        assert (code, failing(document), document["tcb_status"]) == (1, {check}, status)


def test_what_is_not_reached_is_null(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    arguments = files(shop, tmp_path, quote=shop.quote(chain=b"no chain"))
    code, document = verify(capsys, *arguments, "--allow", "emulated")
    well_formed(document)
    assert (code, document["tcb_status"], document["pck"]) == (1, None, None)


def test_without_collateral_nothing_is_fetched(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    done = call(capsys, "quote", "verify", files(shop, tmp_path)[0])
    assert done.code == 2
    assert "--fetch" in done.err


def test_a_quote_makes_no_library_speak(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    """The X.509 library warns of a negative serial number, naming our source files."""
    der = shop.pck.public_bytes(Encoding.DER)
    size = (shop.pck.serial_number.bit_length() + 8) // 8
    number = shop.pck.serial_number.to_bytes(size, "big")
    negative = der.replace(number, bytes((number[0] | 0x80,)) + number[1:])
    text = base64.encodebytes(negative).decode()
    leaf = f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n".encode()
    arguments = files(shop, tmp_path, quote=shop.quote(chain=leaf + pem(shop.platform_ca, shop.root)))
    with warnings.catch_warnings(record=True) as spoken:
        warnings.simplefilter("always")
        done = call(capsys, "quote", "verify", *arguments, "--allow", "emulated")
    assert (done.code, spoken) == (1, [])


def test_names_in_certificates_control_no_terminal(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    name = "SGX PCK Certificate \x1b[31m\x1b]0;title\x07\x9b2J [bold]x[/bold] \u202e"
    pck = remade(shop.pck, shop.platform_ca_key, name=name)
    arguments = files(shop, tmp_path, quote=shop.quote(chain=pem(pck, shop.platform_ca, shop.root)))
    done = call(capsys, "quote", "verify", *arguments, "--allow", "emulated")
    assert done.code == 0
    assert "[bold]x[/bold]" in done.out
    assert not set("\x1b\x07\x9b\u202e") & set(done.out + done.err)


def test_malformed_quotes_end_with_2(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    arguments = files(shop, tmp_path)
    data = Path(arguments[0]).read_bytes()
    for damage in (b"", b"\4", data[:100], data[:700], b"\2" + data[1:], bytes(5000)):
        Path(arguments[0]).write_bytes(damage)
        done = call(capsys, "quote", "verify", *arguments)
        assert done.code == 2, damage[:8]
        assert done.err.startswith("error: ")
        assert "Traceback" not in done.err


def test_a_synthetic_quote_of_each_body(capsys: Capsys, shop: Workshop, tmp_path: Path) -> None:
    for kind in (TdBody10, TdBody15, TdBody15Ex):
        arguments = files(shop, tmp_path, quote=shop.quote(shop.body(kind)))
        code, document = verify(capsys, *arguments, "--allow", "emulated")
        assert (code, document["quote"]["body"]["type"]) == (0, kind.NAME)
