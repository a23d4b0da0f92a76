from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from pathlib import Path

import pytest

from tdxstack import host_access
from tdxstack.host_access import (
    AbsentError,
    ForbiddenError,
    Host,
    HostError,
    RealHost,
    UnansweredError,
    WebAnswer,
)
from tests.scripted_host import ScriptedHost


@pytest.fixture
def host() -> RealHost:
    return RealHost()


def test_real_and_scripted_hosts_are_hosts() -> None:
    hosts: list[Host] = [RealHost(), ScriptedHost()]
    assert len(hosts) == 2


def test_files_are_read_up_to_the_limit(host: RealHost, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert host.read(str(tmp_path / "file")) == b"0123456789"
    assert host.read(str(tmp_path / "file"), limit=4) == b"0123"
    assert host.entries(str(tmp_path)) == ("file",)
    status = host.status(str(tmp_path / "file"))
    assert (status.kind, status.size) == ("file", 10)
    (tmp_path / "link").symlink_to("nowhere")
    assert host.status(str(tmp_path / "link")).kind == "link"


def test_what_is_missing_is_absent(host: RealHost, tmp_path: Path) -> None:
    for ask in (host.read, host.entries, host.status):
        with pytest.raises(AbsentError, match="does not exist") as caught:
            ask(str(tmp_path / "nothing"))
        assert caught.value.hint.startswith("ls -l ")
    with pytest.raises(AbsentError, match="no program nonsense-program"):
        host.run(["nonsense-program"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_forbidden(host: RealHost, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(ForbiddenError) as caught:
        host.read(str(tmp_path / "secret"))
    assert caught.value.hint == f"sudo cat {tmp_path / 'secret'}"


def test_a_named_pipe_keeps_nobody_waiting(host: RealHost, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert host.read(str(tmp_path / "pipe")) == b""


def test_programs_run_in_the_c_locale(host: RealHost) -> None:
    done = host.run(["sh", "-c", 'echo "$LC_ALL $HOME"; cat; exit 3'], stdin=b"in\n")
    assert (done.returncode, done.stdout) == (3, "C \nin\n")


def test_programs_that_do_not_end_give_no_answer(host: RealHost) -> None:
    with pytest.raises(UnansweredError, match=r"did not end within 0\.1 s"):
        host.run(["sleep", "60"], timeout=0.1)


def test_an_exchange_is_framed_and_bounded_in_time(host: RealHost, tmp_path: Path) -> None:
    address = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        thread = threading.Thread(target=_answer_once, args=(listener, b"\0\0\0\2ok"))
        thread.start()
        assert host.exchange(address, b"hello", timeout=60) == b"ok"
        thread.join()
        with pytest.raises(UnansweredError, match=r"did not answer within 0\.05 s"):
            host.exchange(address, b"hello", timeout=0.05)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"\0\0\0\2o", "closed the connection 1 bytes before the end"),
        (b"\xff" * 4, "announces 4294967295 bytes"),
    ],
)
def test_a_peer_that_talks_nonsense(host: RealHost, tmp_path: Path, answer: bytes, problem: str) -> None:
    address = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        thread = threading.Thread(target=_answer_once, args=(listener, answer))
        thread.start()
        with pytest.raises(UnansweredError, match=problem):
            host.exchange(address, b"hello", timeout=60)
        thread.join()


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(4096)
        peer.sendall(answer)


def test_nobody_listens(host: RealHost, tmp_path: Path) -> None:
    with pytest.raises(AbsentError):
        host.exchange(tmp_path / "socket", b"", timeout=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnansweredError, match="refused"):
        host.fetch(f"https://127.0.0.1:{port}/", timeout=1)


def test_kernel_questions_have_an_answer_or_a_host_error(host: RealHost) -> None:
    for ask in (host.kernel_log, host.kernel_release, lambda: host.msr(0x10)):
        try:
            ask()
        except HostError as error:
            assert error.kind in ("absent", "forbidden", "unanswered")


def test_scripted_answers_may_be_errors_and_may_change() -> None:
    host = ScriptedHost()
    with pytest.raises(AbsentError):
        host.msr(0x87)
    host.msrs[0x87] = ForbiddenError("no", hint="sudo rdmsr 0x87")
    with pytest.raises(ForbiddenError):
        host.msr(0x87)
    host.msrs[0x87] = 1
    assert host.msr(0x87) == 1
    host.files["/sys/module/kvm_intel/parameters/tdx"] = b"Y\n"
    assert host.entries("/sys/module") == ("kvm_intel",)
    host.pages["https://localhost/"] = WebAnswer(200, {}, b"", trusted=False)
    assert host.fetch("https://localhost/", timeout=1).status == 200
    assert host.asked[:2] == ["msr 0x87", "msr 0x87"]


def test_a_host_without_vsock_for_guests_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_access, "VHOST_VSOCK_DEVICE", "/nonexistent/vhost-vsock")
    with pytest.raises(AbsentError, match="vhost-vsock does not exist") as caught:
        host_access.vsock_cid_is_free(3)
    assert "modprobe vhost_vsock" in caught.value.hint


@pytest.mark.parametrize(("number", "free"), [(0, True), (errno.EADDRINUSE, False)])
def test_vsock_identifiers_are_asked_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, number: int, free: bool
) -> None:
    asked = []

    def ioctl(_descriptor: int, request: int, argument: bytes) -> int:
        asked.append((request, argument))
        if number:
            raise OSError(number, "")
        return 0

    monkeypatch.setattr(host_access, "VHOST_VSOCK_DEVICE", "/dev/null")
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert host_access.vsock_cid_is_free(258) is free
    assert asked == [(0x4008AF60, b"\x02\x01" + bytes(6))]
