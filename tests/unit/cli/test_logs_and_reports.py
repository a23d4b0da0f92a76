"""`tdx eventlog` and `tdx report`, through the commands."""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tdxstack.abi.event_log import ALG_SHA384, EventLog, SpecId
from tdxstack.abi.quote import Quote, QuoteHeader, TdBody10
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.abi.tdreport import ReportMac, TdInfo, TdReport, TeeTcbInfo
from tdxstack.cli import tdx
from tdxstack.errors import MalformedError, UsageError
from tdxstack.measurement.profile import PROFILES
from tdxstack.measurement.replay import Rtmrs
from tdxstack.verification.emulated import EMULATED_MRSEAM
from tests.unit.abi.test_hcl_report import packed as hcl_packed
from tests.unit.abi.test_quote import SIGNATURE
from tests.unit.measurement.test_log_profile import boot_log
from tests.unit.measurement.test_logs import AAEL, CCEL, CCEL_RTMRS, IMA, TPM, header, sha

REGISTERS = {f"rtmr{index}": value.hex() for index, value in enumerate(CCEL_RTMRS)}


def bound_report(rtmrs: Rtmrs = CCEL_RTMRS) -> TdReport:
    """A TDREPORT whose hashes fit."""
    info = TdInfo(rtmrs=rtmrs)
    tcb = TeeTcbInfo(mrseam=b"s" * 48)
    mac = ReportMac(tee_tcb_info_hash=sha(tcb.to_bytes()), tee_info_hash=sha(info.to_bytes()))
    return TdReport(mac, tcb, info)


def quote_bytes(body: TdBody10 | SgxReportBody) -> bytes:
    tee = 0 if isinstance(body, SgxReportBody) else 0x81
    return Quote(QuoteHeader(4, tee_type=tee), body, SIGNATURE).to_bytes()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, data in {
        "ccel": CCEL,
        "ccel.hex": CCEL.hex().encode(),
        "tpm": TPM,
        "aael": AAEL,
        "ima": IMA,
        "report": bound_report().to_bytes(),
        "quote": quote_bytes(TdBody10.of_report(bound_report())),
        "extended": quote_bytes(TdBody10.of_report(bound_report(rtmrs=(*CCEL_RTMRS[:3], b"3" * 48)))),
        "other": bound_report(rtmrs=(b"0" * 48, *CCEL_RTMRS[1:])).to_bytes(),
        "enclave": quote_bytes(SgxReportBody()),
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def run(*words: str, data: bytes = b"", fails: type[Exception] | None = None) -> Result:
    result = CliRunner().invoke(tdx, words, input=data, standalone_mode=False)
    assert isinstance(result.exception, fails) if fails else result.exception is None
    return result


def test_replay_without_anything_to_compare(files: Path) -> None:
    for name in ("ccel", "ccel.hex"):
        result = run("eventlog", "replay", str(files / name), "--json")
        assert result.return_value == 0
        assert json.loads(result.stdout) == {
            "formats": ["tcg"],
            "events": 4,
            "registers": REGISTERS,
            "banks": None,
            "wrong_digests": [],
            "notes": [],
        }
    assert REGISTERS["rtmr2"] in run("eventlog", "replay", str(files / "ccel")).stdout


@pytest.mark.parametrize(
    ("option", "name", "code", "matches"),
    [
        ("--quote", "quote", 0, [True] * 4),
        ("--report", "report", 0, [True] * 4),
        ("--quote", "extended", 0, [True, True, True, False]),
        ("--report", "other", 1, [False, True, True, True]),
    ],
)
def test_comparison(files: Path, option: str, name: str, code: int, matches: list[bool]) -> None:
    words = ("eventlog", "replay", str(files / "ccel"), option, str(files / name))
    result = run(*words, "--json")
    document = json.loads(result.stdout)
    assert result.return_value == code
    assert document["matches"] == {f"rtmr{index}": match for index, match in enumerate(matches)}
    assert len(document["notes"]) == matches.count(False)
    shown = run(*words)
    assert shown.return_value == code
    assert (shown.stdout.count(" match"), shown.stdout.count(" differs\n")) == (
        matches.count(True),
        matches.count(False),
    )


def test_logs_of_one_td_from_a_file_and_standard_input(files: Path) -> None:
    result = run("eventlog", "replay", str(files / "ccel"), "-", "--json", data=base64.b64encode(IMA))
    document = json.loads(result.stdout)
    assert document["formats"] == ["tcg", "ima"]
    assert document["registers"]["rtmr2"] != REGISTERS["rtmr2"]


def test_replay_of_pcrs(files: Path) -> None:
    document = json.loads(run("eventlog", "replay", str(files / "tpm"), "--json").stdout)
    assert document["registers"] is None
    assert set(document["banks"]) == {"sha1", "sha256"}
    assert document["banks"]["sha256"]["pcr0"] in run("eventlog", "replay", str(files / "tpm")).stdout
    words = ("eventlog", "replay", str(files / "tpm"), "--quote", str(files / "quote"))
    assert "not a TD's" in str(run(*words, fails=UsageError).exception)


def test_bank_that_is_not_computed_is_told() -> None:
    log = header((0x12, 32)) + struct.pack("<IIIH32sI", 1, 4, 1, 0x12, b"d" * 32, 0)
    document = json.loads(run("eventlog", "replay", "-", "--json", data=log).stdout)
    assert document["banks"] == {}
    assert document["notes"] == ["the bank of sm3 is not computed: only SHA-1 and SHA-2 are"]
    assert "bank of sm3" in run("eventlog", "replay", "-", data=log).stdout


def test_misuse(files: Path) -> None:
    ccel, quote, report = (str(files / name) for name in ("ccel", "quote", "report"))
    both = run("eventlog", "replay", ccel, "--quote", quote, "--report", report, fails=UsageError)
    assert "both" in str(both.exception)
    enclave = run("eventlog", "replay", ccel, "--quote", str(files / "enclave"), fails=UsageError)
    assert "no RTMRs" in str(enclave.exception)
    for group, wanted in (("eventlog", "log"), ("report", "TDREPORT")):
        other = run(group, "show", quote, fails=MalformedError)
        assert f"this is a quote and no {wanted}" in str(other.exception)
    run("eventlog", "show", ccel, "--format", "ima", fails=MalformedError)


def test_digest_that_is_not_of_the_data(files: Path) -> None:
    log = CCEL.replace(b"grub_cmd: x", b"grub_cmd: y")
    result = run("eventlog", "replay", "-", "--json", data=log)
    assert result.return_value == 1
    assert json.loads(result.stdout)["wrong_digests"] == [3]
    assert "events 3" in run("eventlog", "replay", "-", data=log).stdout
    assert " FAIL " in run("eventlog", "show", "-", data=log).stdout


def test_show(files: Path) -> None:
    document = json.loads(run("eventlog", "show", str(files / "ccel"), "--json").stdout)
    assert (document["format"], document["of_td"], document["count"]) == ("tcg", True, 4)
    assert document["events"][3] == {
        "number": 3,
        "register": "rtmr2",
        "type": "EV_IPL",
        "digests": {"sha384": sha(b"x").hex()},
        "digest_status": "ok",
        "meaning": "GRUB command: x",
        "origin": "boot loader",
    }
    lines = run("eventlog", "show", str(files / "ccel")).stdout.splitlines()
    assert lines[0].split() == ["#", "REGISTER", "TYPE", "DIGEST", "DATA", "MEANING"]
    assert lines[4].endswith("ok    GRUB command: x")
    assert lines[5] == "4 events"
    assert lines[6].startswith("firmware: ")


def test_show_ends_with_whose_firmware_wrote_the_log() -> None:
    events = boot_log(PROFILES[-1])
    spec_id = SpecId(0, bytes(20), 0, 0, 2, 0, 2, ((ALG_SHA384, 48),), b"")
    result = run("eventlog", "show", "-", data=EventLog(spec_id, events).to_bytes())
    assert result.stdout.endswith("events\nfirmware: fits edk2-stable202505 to 202608\n")
    strange = EventLog(spec_id, (*events, dataclasses.replace(events[0], type=0x1234))).to_bytes()
    last, unknown = run("eventlog", "show", "-", data=strange).stdout.splitlines()[-2:]
    assert last.endswith("nearest edk2-stable202505: 0x00001234 in RTMR0 is not edk2's")
    assert unknown == f"of nobody that tdx knows: events {len(events) + 1}"
    assert json.loads(run("eventlog", "show", "-", "--json", data=strange).stdout)["firmware"]["fits"] == []
    assert json.loads(run("eventlog", "show", "-", "--json", data=IMA).stdout)["firmware"] is None


def test_report(files: Path) -> None:
    result = run("report", "show", str(files / "report"), "--json")
    document = json.loads(result.stdout)
    assert result.return_value == 0
    assert (document["verified"], document["emulated"], document["hcl"]) == (False, None, None)
    assert document["binds"] == {"tcb_info": True, "td_info": True, "runtime_data": None}
    assert document["report"]["td_info"]["rtmr0"] == REGISTERS["rtmr0"]
    assert document["report"]["td_info"]["xfam"] == {"value": "0" * 16, "names": []}
    shown = run("report", "show", str(files / "report")).stdout
    assert "not verified" in shown
    assert "emulated" not in shown


def test_report_with_a_wrong_hash() -> None:
    data = bytearray(bound_report().to_bytes())
    data[-1] ^= 1
    result = run("report", "show", "-", "--json", data=bytes(data))
    assert result.return_value == 1
    assert json.loads(result.stdout)["binds"]["td_info"] is False


def test_emulated_report_says_so() -> None:
    report = dataclasses.replace(bound_report(), tcb_info=TeeTcbInfo(mrseam=EMULATED_MRSEAM))
    assert json.loads(run("report", "show", "-", "--json", data=report.to_bytes()).stdout)["emulated"] is True
    assert "emulated: this TD is not protected" in run("report", "show", "-", data=report.to_bytes()).stdout


def test_hcl_report() -> None:
    document = json.loads(run("report", "show", "-", "--json", data=hcl_packed()).stdout)
    assert document["hcl"]["report_type"] == "TDX"
    assert document["hcl"]["runtime_data"]["vm-configuration"] == {"secure-boot": True}
    assert document["binds"]["runtime_data"] is True
    assert "runtime_data.vm-configuration" in run("report", "show", "-", data=hcl_packed()).stdout
