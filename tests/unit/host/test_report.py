"""Recording a host, cleaning the recording, and reading it back."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.host.chain import CHAIN
from tdxstack.host.check import Circumstances
from tdxstack.host.checks.pccs import PCCS_CONFIG, QCNL_CONFIG
from tdxstack.host.checks.registration import MPA_LOG, STATUS_VARIABLE
from tdxstack.host.diagnosis import Diagnosis, diagnose
from tdxstack.host.recording import Recorder
from tdxstack.host.redaction import Redactor
from tdxstack.host.report import ANSWERS, MAX_SIZE, Recording, Report, collect, read
from tdxstack.host.summary import to_json
from tdxstack.host_access import ForbiddenError, KernelLog, Output, UnansweredError, WebAnswer
from tdxstack.verification.result import Status
from tests.scripted_host import ScriptedHost
from tests.unit.host import worlds
from tests.unit.host.worlds import ALL, NOW, World

NAMES = ("frodo.shire.example", "frodo")


def verdicts(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    return [(result.id, result.status.value, result.because_of) for result in diagnosis.results]


def report(host: ScriptedHost, *, network: bool = False) -> tuple[Report, Diagnosis]:
    """A report on a host, and the diagnosis on the host itself."""
    around = Circumstances(NOW, network, "10.0.13")
    return collect(host, around, NAMES), diagnose(host, around, CHAIN)


def again(recording: Recording) -> Diagnosis:
    return diagnose(recording.host, recording.circumstances, CHAIN)


@pytest.mark.parametrize("world", ALL, ids=lambda world: world.__name__)
def test_a_report_gives_the_diagnosis_of_its_host(world: World, tmp_path: Path) -> None:
    host = world()
    made, here = report(host)
    made.write(tmp_path / "report.tar")
    recording = read(tmp_path / "report.tar")
    assert recording == made.recording
    assert verdicts(again(recording)) == verdicts(here)
    there = to_json(again(recording), recording.host, recording.circumstances, recorded=None)
    assert there == to_json(here, host, recording.circumstances, recorded=None)
    assert there | {"recorded": NOW.isoformat()} == made.diagnosis


def test_a_host_is_asked_each_question_once() -> None:
    host = worlds.good_emr()
    collect(host, Circumstances(NOW), ())
    assert len(host.asked) == len(set(host.asked))


def test_a_remote_pccs_keeps_its_answer_under_a_stand_in() -> None:
    host = worlds.good_emr()
    host.files[QCNL_CONFIG] = b'{"pccs_url": "https://pccs.corp.example:8081/sgx/certification/v4/"}'
    answer = WebAnswer(200, {}, b"3082", trusted=True)
    host.pages["https://pccs.corp.example:8081/sgx/certification/v4/rootcacrl"] = answer
    made, here = report(host, network=True)
    assert "corp.example" not in json.dumps(made.recording.to_json())
    assert here.result("pccs.answer").status is Status.OK
    assert verdicts(again(made.recording)) == verdicts(here)


SECRETS = {
    "an API key": "e1f2d3c4b5a697887766554433221100",
    "a hash of a token": "ab" * 64,
    "a private key": "MHcCAQEEIJr0uXgq0pLzqJ5mF3",
    "a password": "correct-horse",
    "a subscription key in a log": "sk-0123456789abcdef",
    "the user of a proxy": "proxyuser",
    "the password of a proxy": "proxypass",
    "a MAC address": "52:54:00:12:34:56",
    "an IPv4 address": "10.11.12.13",
    "an IPv6 address": "fd00:1234::42",
    "the name of this machine": "frodo",
    "the name of another machine": "pccs.corp.example",
    "a serial number": "4J18R24",
    "a PPID": "7aac228ffe2e56b311a8db880929b97a",
    "a QE ID": bytes(range(16)).hex(),
    "a UUID": "0e0ce3b1-7b52-4a79-8d0f-53f6dbe3a3a1",
    "a person": "Alice Example",
    "a user": "alice",
    "a mail address": "alice@corp.example",
    "a kernel parameter": "hunter2",
    "a user in a path": "bilbo",
}


def leaky() -> ScriptedHost:
    """A host that tells every secret, in each place where a real one might."""
    host = worlds.good_emr()
    host.files["/proc/cmdline"] = (
        b"root=UUID=0e0ce3b1-7b52-4a79-8d0f-53f6dbe3a3a1 luks.key=hunter2 kvm_intel.tdx=1\n"
    )
    lines = [
        "Kernel command line: root=UUID=0e0ce3b1-7b52-4a79-8d0f-53f6dbe3a3a1 luks.key=hunter2 nohibernate",
        "kvm: guest 52:54:00:12:34:56 on frodo.shire.example",
        "sgx: Serial Number: 4J18R24, PPID=7aac228ffe2e56b311a8db880929b97a",
        "tdx: told by alice@corp.example at 10.11.12.13 and fd00:1234::42",
        "e1000e: eth0: 52:54:00:12:34:56 password correct-horse",
    ]
    assert isinstance(host.log, KernelLog)
    host.log = replace(host.log, lines=(*host.log.lines, *lines))
    host.programs["qemu-system-x86_64"] = "/home/bilbo/bin/qemu-system-x86_64"
    host.commands[worlds.PROBE.replace("/usr/bin", "/home/bilbo/bin")] = host.commands[worlds.PROBE]
    host.files[PCCS_CONFIG] = (
        b'{"ApiKey": "e1f2d3c4b5a697887766554433221100", "UserTokenHash": "' + b"ab" * 64 + b'", '
        b'"proxy": "http://proxyuser:proxypass@10.11.12.13:3128", "database": {"password": "correct-horse"}}'
    )
    host.files[STATUS_VARIABLE] = worlds.UNREGISTERED
    host.files[MPA_LOG] = (
        b"INFO: proxy http://proxyuser:proxypass@pccs.corp.example:911 subscription key = "
        b"sk-0123456789abcdef\n"
        b"ERROR: server https://pccs.corp.example/register says: password: correct-horse \xff\n"
    )
    host.commands[worlds.JOURNAL] = Output(
        0,
        "GET https://pccs.corp.example:8081/pckcert?qeid=000102030405060708090a0b0c0d0e0f&encrypted_ppid="
        "7aac228ffe2e56b311a8db880929b97a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIJr0uXgq0pLzqJ5mF3\n"
        "-----END EC PRIVATE KEY-----\n",
        "",
    )
    return host


def test_no_secret_reaches_a_report() -> None:
    host = leaky()
    recorder = Recorder(host)
    diagnose(recorder, Circumstances(NOW), CHAIN)
    before = json.dumps(recorder.answers)
    for name in ("a PPID", "an API key", "a person", "a kernel parameter", "the password of a proxy"):
        assert SECRETS[name] in before, name
    made, here = report(host)
    after = b"".join(made.contents.values()).decode().lower()
    assert [name for name, secret in SECRETS.items() if secret.lower() in after] == []
    assert bytes(range(16)) not in made.recording.host.exchange(Path(worlds.QGS_SOCKET), b"", timeout=1)
    assert made.removed["secrets"] >= 4
    assert verdicts(again(made.recording)) == verdicts(here)


def test_what_is_no_secret_stays() -> None:
    after = json.dumps(report(leaky())[0].recording.to_json())
    for kept in (
        "private KeyID range [32, 64)",
        "Module version: 1.5.24",
        "https://localhost:8081/sgx/certification/v4/",
        "SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45",
        "CONFIG_INTEL_TDX_HOST=y",
        "nohibernate",
    ):
        assert kept in after, kept
    assert "eth0" not in after


@given(st.text())
def test_cleaning_is_total_and_leaves_nothing_to_clean(text: str) -> None:
    once = Redactor(NAMES).text(text)
    assert Redactor(NAMES).text(once) == once


@pytest.mark.parametrize(
    "secret",
    [
        "52:54:00:12:34:56",
        "10.0.0.1",
        "fe80::1",
        "password=x1",
        "'Password': 'two words, and more'",
        '"ApiKey": "k"',
        r'"ApiKey": "k1\"k2"',
        "Authorization: Basic dXNlcjpwdw",
        "authorization=bearer x1.y2",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln",
        "frodo",
        "FRODO",
        "a@b.example",
        "ab" * 16,
        "db7.corp.example",
        "https://intranet/",
        "/home/bilbo/x",
    ],
)
def test_a_secret_is_found_in_any_surroundings(secret: str) -> None:
    words = set(re.findall(r"[\w.:@]{2,}", secret))
    words -= {"password", "Password", "ApiKey", "https:", "home", "Authorization:", "Basic"}
    words -= {"authorization", "bearer"}
    befores = ("", "x ", "(", "\t", "\n", "mac:", "addr:", "=", "[", ",")
    afters = ("", " x", ")", ",", "\n", ":", ".", "]", ": x", ";")
    for before, after in itertools.product(befores, afters):
        clean = Redactor(NAMES).text(f"{before}{secret}{after}")
        assert not [word for word in words if word in clean], (before, after, clean)


@pytest.mark.parametrize(
    "text",
    [
        "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000",
        "Linux version 6.17.0-8-generic",
        "Running against daemon: 12.0.0",
        "https://localhost:8081/sgx/",
        "https://api.trustedservices.intel.com/sgx/",
        "127.0.0.1 ::1 0.0.0.0",
        "kvm_intel: tdx: no TDX private KeyIDs available",
        "0000:00:1f.3 0xffff:0x1",
        "bugs\t\t: spectre_v2 spec_store_bypass tdx_pw_mce",
    ],
)
def test_what_identifies_nobody_stays(text: str) -> None:
    assert Redactor(NAMES).text(text) == text


def test_cleaning_takes_linear_time() -> None:
    pieces = (
        "a:",
        "1.",
        "key ",
        "-----BEGIN PRIVATE KEY-----",
        "://a",
        "ab-",
        "0",
        "_",
        "@a.",
        "-eyJa",
        " ",
        "\n",
    )
    for piece in pieces:
        Redactor(NAMES).text(piece * (20_000 // len(piece)))
        Redactor(NAMES).text("key" + piece * (20_000 // len(piece)))


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info


def test_a_report_is_readable_by_its_owner_only_and_may_be_unpacked(tmp_path: Path) -> None:
    made, _ = report(worlds.amd())
    recording = made.recording
    made.write(tmp_path / "report.tar")
    assert (tmp_path / "report.tar").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "report.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    assert read(tmp_path) == recording
    assert read(tmp_path / "tdx-host-report") == recording


def test_hostile_archives_are_refused_without_unpacking(tmp_path: Path) -> None:
    link = member(f"x/{ANSWERS}", tarfile.SYMTYPE)
    link.linkname = "/etc/passwd"
    for made in (
        archive(tmp_path / "link.tar", (link, b"")),
        archive(tmp_path / "other.tar", (member("../../../etc/passwd"), b"x")),
        archive(tmp_path / "text.tar", (member(ANSWERS), b"not json")),
        archive(tmp_path / "deep.tar", (member(ANSWERS), b"[" * 100_000)),
        archive(tmp_path / "empty.tar"),
    ):
        with pytest.raises(MalformedError, match="no report of a host"):
            read(made)
    (tmp_path / "garbage.tar").write_bytes(b"\x1f\x8b" * 700)
    with pytest.raises(MalformedError, match="is no tar archive"):
        read(tmp_path / "garbage.tar")
    with (tmp_path / "huge.tar").open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    with pytest.raises(MalformedError, match="larger than 64 MiB"):
        read(tmp_path / "huge.tar")
    chain = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    with pytest.raises(MalformedError):
        read(archive(tmp_path / "chain.tar", *[(chain, b"")] * 5000))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MalformedError, match="is no file"):
        read(tmp_path / "pipe")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(MalformedError, match=f"has no {ANSWERS}"):
        read(tmp_path / "nothing")
    with pytest.raises(UnavailableError):
        read(tmp_path / "absent.tar")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("msr 0x87", {"value": "many"}),
        ("msr 0x87", {"value": True}),
        ("read /x", {"value": 1}),
        ("read /x", {"value": {"base64": "!"}}),
        ("status /x", {"value": {"kind": "file"}}),
        ("kernel_log", {"value": []}),
        ("run x", {"value": {"returncode": 0, "stdout": "", "stderr": [1]}}),
        ("msr 0x87", {"error": "tired", "message": "", "hint": ""}),
        ("msr 0x87", {}),
        ("dance", {"value": 1}),
    ],
)
def test_answers_that_make_no_sense_are_refused(question: str, answer: dict[str, object]) -> None:
    document = Recording({question: answer}, Circumstances(NOW)).to_json()
    with pytest.raises(MalformedError, match=question.split()[0]):
        Recording.parse(json.dumps(document).encode())


@settings(max_examples=40)
@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode)
)
def test_a_recording_is_read_or_refused(data: bytes) -> None:
    try:
        Recording.parse(data)
    except MalformedError as error:
        assert error.hint


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"taken": "yesterday"},
        {"taken": "2026-01-01"},
        {"network": 1},
        {"emulator": 1},
        {"answers": []},
        {"answers": {"msr 1": 1}},
    ],
)
def test_recordings_of_another_form_are_refused(change: dict[str, object]) -> None:
    document = Recording({}, Circumstances(NOW)).to_json() | change
    with pytest.raises(MalformedError):
        Recording.parse(json.dumps(document).encode())


def test_what_was_not_asked_is_unanswered() -> None:
    recording = report(worlds.amd())[0].recording
    with pytest.raises(UnansweredError, match="the recording does not tell"):
        recording.host.msr(0x87)


def test_errors_come_back_as_they_were() -> None:
    recording = report(worlds.without_root())[0].recording
    with pytest.raises(ForbiddenError, match="may not be used") as caught:
        recording.host.msr(0x982)
    assert caught.value.hint == "sudo modprobe msr && sudo rdmsr -p 0 0x982"
