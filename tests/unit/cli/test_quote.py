"""`tdx quote show` and `verify`, on a quote of the emulated platform."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tdxstack.abi.quote import CertificationData
from tdxstack.verification.advice import ADVICE, advice
from tdxstack.verification.boot import BOOT_CHECKS
from tdxstack.verification.quote import POLICY_CHECKS, QUOTE_CHECKS
from tdxstack.verification.result import fail, unknown
from tests.recorded_boot import NOW, Keys, Recorded, naming_pck, with_quote, with_tcb_info
from tests.unit.cli.verification_files import Files, call
from tests.unit.collateral.pcs_server import serving

Capsys = pytest.CaptureFixture[str]


def verify(capsys: Capsys, files: Files, *more: str) -> tuple[int, dict[str, Any]]:
    done = call(capsys, "quote", "verify", str(files.quote), *files.options(), *more, "--json")
    return done.code, json.loads(done.out)


def failing(document: dict[str, Any]) -> list[str]:
    return [check["id"] for check in document["checks"] if check["status"] in ("fail", "unknown")]


def test_show_decodes_the_quote_and_verifies_nothing(capsys: Capsys, files: Files, boot: Recorded) -> None:
    done = call(capsys, "quote", "show", str(files.quote), "--json")
    document = json.loads(done.out)
    assert (done.code, document["verified"], document["emulated"]) == (0, False, True)
    quote, body = document["quote"], boot.quote.body
    assert quote["header"]["version"] == 5
    assert quote["body"]["type"] == "TD report 1.5"
    assert quote["body"]["mrtd"] == boot.report.td_info.mrtd.hex()
    assert quote["body"]["report_data"] == body.report_data.hex()
    assert quote["body"]["td_attributes"] == {"value": "0000000010000000", "names": ["SEPT_VE_DISABLE"]}
    assert "AVX" in quote["body"]["xfam"]["names"]
    module = quote["body"]["tee_tcb_svn"]["module"]
    assert module == {
        "id": "TDX_01",
        "version": "1.5",
        "isvsvn": int(quote["body"]["tee_tcb_svn"]["value"][:2], 16),
    }
    certification = quote["signature"]["certification"]
    assert (certification["type"], len(certification["certificates"])) == (5, 3)
    assert certification["certificates"][0]["not_before"] < certification["certificates"][0]["not_after"]
    assert document["pck"]["fmspc"].startswith("fe") and document["pck"]["ca"] == "platform"
    assert len(document["pck"]["cpusvn"]) == 32 and document["pck"]["pcesvn"] >= 0


def test_show_says_to_people_that_nothing_is_verified(capsys: Capsys, files: Files, boot: Recorded) -> None:
    done = call(capsys, "quote", "show", str(files.quote))
    lines = done.out.splitlines()
    assert lines[0].startswith("not verified: ")
    assert lines[1].startswith("emulated: ")
    assert any(line.split() == ["mrtd", boot.report.td_info.mrtd.hex()] for line in lines)
    assert "SEPT_VE_DISABLE" in done.out and "TDX module 1.5, TDX_01" in done.out


@pytest.mark.parametrize(
    ("kind", "data"), [(1, bytes(36)), (3, bytes(404)), (5, b"no chain"), (7, b"manifest"), (99, b"")]
)
def test_show_tells_what_it_can_of_any_certification_data(
    capsys: Capsys, tmp_path: Path, boot: Recorded, kind: int, data: bytes
) -> None:
    changed = with_quote(
        boot,
        lambda quote: replace(
            quote, signature=replace(quote.signature, certification=CertificationData(kind, data))
        ),
    )
    path = tmp_path / "quote"
    path.write_bytes(changed.evidence.quote)
    document = json.loads(call(capsys, "quote", "show", str(path), "--json").out)
    certification = document["quote"]["signature"]["certification"]
    assert document["pck"] is None and certification["type"] == kind
    assert ("platform" in certification) is (kind in (1, 3))
    assert ("problem" in certification) is (kind == 5)
    assert call(capsys, "quote", "show", str(path)).code == 0


@pytest.mark.parametrize("encoded", [bytes, lambda data: data.hex().encode(), base64.b64encode])
def test_quotes_come_in_every_form(capsys: Capsys, files: Files, encoded: Any) -> None:
    files.quote.write_bytes(encoded(files.quote.read_bytes()))
    assert call(capsys, "quote", "show", str(files.quote)).code == 0
    assert verify(capsys, files)[0] == 0


def test_verify_gives_the_whole_document(capsys: Capsys, files: Files, boot: Recorded) -> None:
    code, document = verify(capsys, files)
    assert code == 0
    assert document["verdict"] == "accepted" and document["emulated"] is True
    assert document["tcb_status"] == "UpToDate" and document["advisory_ids"] == []
    assert {"fmspc", "cpusvn", "pcesvn", "ca"} <= document["pck"].keys()
    assert document["quote"]["body"]["mrtd"] == boot.report.td_info.mrtd.hex()
    assert [check["id"] for check in document["checks"]] == list(QUOTE_CHECKS)
    assert {"id", "status", "expected", "found", "detail"} == document["checks"][0].keys()
    assert "forecast" not in document


def test_without_permission_emulated_evidence_is_rejected(capsys: Capsys, files: Files) -> None:
    options = [option for option in files.options() if option not in ("--allow", "emulated")]
    done = call(capsys, "quote", "verify", str(files.quote), *options, "--json")
    assert done.code == 1
    assert failing(json.loads(done.out)) == ["emulated.allowed"]


def test_the_anchor_is_intels_unless_another_is_given(capsys: Capsys, files: Files) -> None:
    options = ["--collateral", str(files.collateral), "--at", files.at, "--allow", "emulated", "--json"]
    document = json.loads(call(capsys, "quote", "verify", str(files.quote), *options).out)
    assert "pck.trust_anchor" in failing(document)
    done = call(capsys, "quote", "verify", str(files.quote), *options, "--trust-anchor", str(files.quote))
    assert done.code == 2 and f"{files.quote} is no root certificate" in done.err


def test_without_collateral_nothing_can_be_said(capsys: Capsys, files: Files) -> None:
    done = call(capsys, "quote", "verify", str(files.quote))
    assert done.code == 2
    assert "--collateral FILE" in done.err


def test_collateral_is_fetched_where_that_is_asked_for(
    capsys: Capsys, files: Files, boot: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = [*files.options()[2:], "--fetch", "--json"]
    with serving(boot.collateral) as server:
        asked = ["quote", "verify", str(files.quote), *options, "--source", server.origin]
        done = call(capsys, *asked)
        assert (done.code, json.loads(done.out)["tcb_status"]) == (0, "UpToDate")
        assert server.requests
        late = call(capsys, *asked, "--at", (NOW + timedelta(days=60)).isoformat())
        assert late.code == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    done = call(capsys, "quote", "verify", str(files.quote), *options, "--offline")
    assert (done.code, json.loads(done.out)["exit_code"]) == (3, 3)


def test_fetching_must_be_asked_for_and_not_contradicted(capsys: Capsys, files: Files) -> None:
    for options in (["--fetch"], ["--source", "pccs"], ["--offline"]):
        done = call(capsys, "quote", "verify", str(files.quote), *files.options(), *options)
        assert done.code == 2
        assert "--fetch" in done.err


def test_expired_collateral_is_a_rejection_with_words(capsys: Capsys, files: Files) -> None:
    late = replace(files, at=(NOW + timedelta(days=60)).isoformat())
    code, document = verify(capsys, late)
    assert code == 1
    assert failing(document) == ["crl.root", "crl.pck", "tcb_info.freshness", "qe_identity.freshness"]
    done = call(capsys, "quote", "verify", str(files.quote), *late.options())
    said = " ".join(done.out.split())
    assert done.code == 1
    assert said.startswith("rejected for 4 reasons: * crl.root failed: the list is out of date at ")
    assert said.count("-> fetch collateral again") == 1
    assert said.endswith("verdict: rejected emulated: this TD is not protected")


def test_times_without_a_zone_are_utc(capsys: Capsys, files: Files) -> None:
    for at in ("2026-03-05", "2026-03-05T10:00:00", "2026-03-05T10:00:00Z", "2026-03-05T10:00:00+0000"):
        assert verify(capsys, replace(files, at=at))[0] == 0
    done = call(capsys, "quote", "verify", str(files.quote), "--at", "tomorrow")
    assert done.code == 2 and "'tomorrow' is not a time" in done.err


def test_a_policy_is_obeyed(capsys: Capsys, files: Files, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "any_of:\n- {name: old, pck_ca: processor}\n- {name: new, registers: {rtmr3: '" + "00" * 48 + "'}}"
    )
    code, document = verify(capsys, files, "--policy", str(policy))
    assert code == 0
    assert document["checks"][-1]["found"] == "any_of[1] (new)"
    policy.write_text("pck_ca: processor\nattributes: {PKS: true}")
    code, document = verify(capsys, files, "--policy", str(policy))
    assert (code, failing(document)) == (1, ["td.attributes", "pck.ca"])
    policy.write_text("pck_cas: processor")
    done = call(capsys, "quote", "verify", str(files.quote), *files.options(), "--policy", str(policy))
    assert done.code == 2 and "pck_cas: there is no such key" in done.err


def test_nonce_and_key_must_be_bound(capsys: Capsys, files: Files, tmp_path: Path) -> None:
    bound = ("--nonce", files.nonce, "--bound-key", str(files.key))
    assert verify(capsys, files, *bound)[0] == 0
    for wrong in (("--nonce", files.nonce), ("--nonce", "11" * 32, "--bound-key", str(files.key))):
        code, document = verify(capsys, files, *wrong)
        assert (code, failing(document)) == (1, ["td.nonce"])
    assert call(capsys, "quote", "verify", str(files.quote), "--bound-key", str(files.key)).code == 2
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"nonce: '{'22' * 32}'")
    done = call(
        capsys, "quote", "verify", str(files.quote), *files.options(), *bound, "--policy", str(policy)
    )
    assert done.code == 2 and "another nonce" in done.err


def test_report_data_is_compared(capsys: Capsys, files: Files, boot: Recorded) -> None:
    assert verify(capsys, files, "--report-data", boot.quote.body.report_data.hex())[0] == 0
    code, document = verify(capsys, files, "--report-data", "00" * 64)
    assert (code, failing(document)) == (1, ["td.expected.report_data"])
    done = call(capsys, "quote", "verify", str(files.quote), "--report-data", "00" * 63)
    assert done.code == 2 and "63 bytes, not 64" in done.err


def test_an_event_log_must_give_the_registers(capsys: Capsys, files: Files) -> None:
    code, document = verify(capsys, files, "--event-log", str(files.event_log))
    assert code == 0
    ids = [check["id"] for check in document["checks"]][-6:]
    assert ids == ["event_log.format", "event_log.digests", *(f"rtmr{n}.replay" for n in range(4))]
    data = bytearray(files.event_log.read_bytes())
    files.event_log.write_bytes(data[: len(data) // 2])
    code, document = verify(capsys, files, "--event-log", str(files.event_log))
    assert code == 1 and "event_log.format" in failing(document)


def test_a_chain_of_the_caller_replaces_the_quotes(
    capsys: Capsys, files: Files, boot: Recorded, tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(boot.quote.signature.certification.data)
    bare = with_quote(boot, lambda quote: naming_pck(quote, 1))
    files.quote.write_bytes(bare.evidence.quote)
    code, document = verify(capsys, files)
    assert code == 1 and document["tcb_status"] is None
    assert verify(capsys, files, "--pck-chain", str(chain))[0] == 0


def test_a_forecast_says_what_other_collateral_will_make_of_it(
    capsys: Capsys, files: Files, boot: Recorded, keys: Keys, tmp_path: Path
) -> None:
    def outdate(value: dict[str, Any]) -> None:
        value["tcbLevels"][0].update(tcbStatus="OutOfDate", advisoryIDs=["INTEL-SA-00001"])

    later = tmp_path / "later.json"
    later.write_bytes(with_tcb_info(boot, keys, outdate).collateral.to_json())
    code, document = verify(capsys, files, "--forecast", str(later))
    assert code == 0
    then = document["forecast"]["then"]
    assert (then["verdict"], then["tcb_status"], then["advisory_ids"]) == (
        "rejected",
        "OutOfDate",
        ["INTEL-SA-00001"],
    )
    done = call(capsys, "quote", "verify", str(files.quote), *files.options(), "--forecast", str(later))
    assert "forecast: rejected, TCB status OutOfDate (INTEL-SA-00001)" in done.out
    assert "tcb.status turns from ok to fail" in done.out
    assert done.out.splitlines()[-1].startswith("verdict: accepted")


def test_results_are_signed_and_read_back(capsys: Capsys, files: Files, tmp_path: Path) -> None:
    private, public, token = tmp_path / "key.pem", tmp_path / "key.pub.pem", tmp_path / "token.jwt"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signing = ["quote", "verify", str(files.quote), *files.options(), "--token-key", str(private), "--token"]
    private.chmod(0o644)
    refused = call(capsys, *signing, str(token))
    assert refused.code == 2 and "everybody can read" in refused.err and not token.exists()
    private.chmod(0o600)
    nonce = ["--nonce", files.nonce, "--bound-key", str(files.key)]
    assert call(capsys, *signing, str(token), *nonce).code == 0
    read = ["quote", "token", str(token), "--key", str(public), "--at", files.at]
    done = call(capsys, *read, "--json")
    claims = json.loads(done.out)
    assert done.code == 1, "emulated evidence is contraindicated"
    submodule = claims["submods"]["tdx"]
    assert submodule["tdxstack"]["emulated"] is True and submodule["tdxstack"]["verdict"] == "accepted"
    assert base64.urlsafe_b64decode(submodule["eat_nonce"] + "=").hex() == files.nonce
    assert "emulated: this TD is not protected" in call(capsys, *read).out
    assert call(capsys, *read[:-1], "2030-01-01").code == 1
    assert submodule["ear_appraisal_policy_ids"] == ["tdxstack:default"]
    policy = tmp_path / "policy.yaml"
    policy.write_text("pck_ca: platform")
    assert call(capsys, *signing, str(token), "--policy", str(policy)).code == 0
    submodule = json.loads(call(capsys, *read, "--json").out)["submods"]["tdx"]
    digest = hashlib.sha256(policy.read_bytes()).hexdigest()
    assert submodule["ear_appraisal_policy_ids"] == [f"sha256:{digest}"]
    alone = call(capsys, *signing, "-")
    assert alone.out.count(".") == 2 and len(alone.out.splitlines()) == 1
    for wrong in ([*signing, "-", "--json"], signing[:-1], [*signing[:-3], "--token", "x"]):
        assert call(capsys, *wrong).code == 2


@pytest.mark.parametrize("data", [b"", b"\x00", b"nonsense", b"04000200", bytes(1000)])
def test_bad_quotes_are_errors(capsys: Capsys, files: Files, data: bytes) -> None:
    files.quote.write_bytes(data)
    for command in (["show"], ["verify", *files.options()]):
        done = call(capsys, "quote", *command, str(files.quote))
        assert (done.code, len(done.err.splitlines())) == (2, 2)


def test_a_directory_gets_a_line_for_each_quote(capsys: Capsys, files: Files, tmp_path: Path) -> None:
    directory = tmp_path / "quotes"
    directory.mkdir()
    for form, data in (
        ("hex", files.quote.read_bytes().hex().encode()),
        ("binary", files.quote.read_bytes()),
    ):
        (directory / form).write_bytes(data)
    verify_all = ["quote", "verify", str(directory), *files.options()]
    done = call(capsys, *verify_all, "--jobs", "2")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0
    assert [(line["name"], line["verdict"]) for line in lines] == [
        ("binary", "accepted"),
        ("hex", "accepted"),
    ]
    assert done.err.splitlines()[-1] == "2 quotes: 2 accepted, 0 rejected, 0 not verifiable"
    (directory / "broken").write_bytes(b"nonsense")
    done = call(capsys, *verify_all, "--json")
    assert done.code == 1
    assert "48 bytes at offset 0" in json.loads(done.out.splitlines()[1])["error"]
    rejected = call(capsys, *verify_all[:-1], "2030-01-01")
    assert rejected.code == 1
    assert "crl.pck" in json.loads(rejected.out.splitlines()[0])["failing_checks"]


def test_a_directory_fetches_for_each_platform(
    capsys: Capsys, files: Files, boot: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "quotes"
    directory.mkdir()
    options = ["quote", "verify", str(directory), *files.options()[2:]]
    assert call(capsys, *options, "--fetch").code == 2
    (directory / "one").write_bytes(files.quote.read_bytes())
    assert call(capsys, *options).code == 2
    with serving(boot.collateral) as server:
        assert call(capsys, *options, "--fetch", "--source", server.origin).code == 0


def test_what_is_about_one_quote_is_refused_for_a_directory(
    capsys: Capsys, files: Files, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    key.chmod(0o600)
    for options in (
        ["--event-log", str(files.event_log)],
        ["--reference", str(files.collateral)],
        ["--pck-chain", str(files.root)],
        ["--forecast", str(files.collateral)],
        ["--token", "-", "--token-key", str(key)],
    ):
        done = call(capsys, "quote", "verify", str(tmp_path), *files.options(), *options)
        assert done.code == 2 and f"{options[0]} is about one quote" in done.err
    assert call(capsys, "quote", "verify", str(files.quote), *files.options(), "--jobs", "2").code == 2


def test_an_interrupted_directory_leaves_no_process(files: Files, tmp_path: Path) -> None:
    directory = tmp_path / "quotes"
    directory.mkdir()
    for number in range(1000):
        (directory / str(number)).hardlink_to(files.quote)
    command = [
        sys.executable,
        "-m",
        "tdxstack",
        "quote",
        "verify",
        str(directory),
        *files.options(),
        "--jobs",
        "2",
    ]
    # Nobody reads the lines, so that the command cannot end by itself.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.read(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1] == "error: interrupted"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_evidence_is_verified_with_the_same_options(
    capsys: Capsys, files: Files, boot: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Measured:
        single_pass = boot.expectation.mrtd

    monkeypatch.setattr("tdxstack.cli.evidence.mrtd", lambda _: Measured)
    common = [
        "evidence", "verify", str(files.evidence), *files.options(),
        "--nonce", files.nonce, "--firmware", str(files.quote),
    ]  # fmt: skip
    for option in ("--bound-key", "--host-key"):
        done = call(capsys, *common, option, str(files.key), "--forecast", str(files.collateral), "--json")
        assert done.code == 0
        assert json.loads(done.out)["forecast"]["changes"] == []
        assert json.loads(done.out)["verdict"] == "accepted"
    private = tmp_path / "key.pem"
    key = ec.generate_private_key(ec.SECP384R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    done = call(capsys, *common, "--token", "-", "--token-key", str(private))
    payload = done.out.split(".")[1]
    submodule = json.loads(base64.urlsafe_b64decode(payload + "=="))["submods"]["tdx"]
    assert done.code == 0
    assert submodule["tdxstack"]["emulated"] is True and "eat_nonce" in submodule
    policy = tmp_path / "policy.yaml"
    policy.write_text("pck_ca: processor")
    done = call(capsys, *common, "--policy", str(policy))
    assert done.code == 1
    assert " ".join(done.out.split()).startswith("rejected for 1 reason: * pck.ca failed: ")


def test_there_is_advice_for_every_check() -> None:
    known = {*BOOT_CHECKS, *POLICY_CHECKS, "rtmr3.replay"}
    for check_id in (*known, "policy.all_of[1].any_of", "reference.mrtd"):
        assert advice(fail(check_id, "", "")), check_id
    assert set(ADVICE) <= known
    assert advice(fail("nothing.such", "", "")) == ""
    assert "in a policy" in advice(fail("tcb.status", "UpToDate", "OutOfDate, TCB of 2024"))
    assert advice(unknown("tcb.status", "there is no TCB info")).startswith("mend what failed first")
    for status in ("Revoked", "NotSupported"):
        assert "no policy accepts" in advice(fail("tcb.status", "UpToDate", status))
