"""The quote generation service on real sockets, with clients good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.abi.qgs import (
    ErrorCode,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
    Header,
    frame,
)
from tdxstack.abi.quote import Quote
from tdxstack.errors import MalformedError, RejectedError, UnavailableError, UsageError
from tdxstack.host.check import Circumstances
from tdxstack.host.checks import qgs as qgs_checks
from tdxstack.host_access import RealHost
from tdxstack.quoting import client
from tdxstack.quoting.enclave import QuotingEnclave
from tdxstack.quoting.pki import Pki
from tdxstack.quoting.qgs import Limits, listening
from tdxstack.quoting.responder import Responder
from tdxstack.verification.result import Status

from .conftest import make_report

Serve = Callable[[Limits], contextlib.AbstractContextManager[Path]]


@pytest.fixture
def serve(pki: Pki, enclave: QuotingEnclave, socket_dir: Path) -> Serve:
    """A service in a thread of its own, for the time of a block."""

    @contextlib.contextmanager
    def serving(limits: Limits) -> Iterator[Path]:
        path = socket_dir / "qgs.sock"
        started = threading.Event()
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        async def run() -> None:
            async with listening(Responder(enclave, pki.collateral, lambda _line: None), path, limits=limits):
                started.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
        thread.start()
        try:
            assert started.wait(5)
            yield path
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(5)
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        assert not path.exists()

    return serving


@pytest.fixture
def server(serve: Serve) -> Iterator[Path]:
    with serve(Limits()) as path:
        yield path


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as peer:
        peer.settimeout(5)
        peer.connect(str(path))
        yield peer


def read_all(peer: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(65536):
            data += part
    return data


def talk(path: Path, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the service sends back before it closes the connection."""
    with connected(path) as peer:
        for piece in pieces:
            peer.sendall(piece)
            if pause:
                time.sleep(pause)
        return read_all(peer)


def still_serves(pki: Pki, path: Path) -> bool:
    return Quote.parse(client.get_quote(path, make_report(pki).to_bytes(), timeout=5)).header.version == 4


# --- good clients


def test_the_doctor_of_a_host_gets_an_answer(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qgs_checks, "QGS_SOCKET", server)
    around = Circumstances(datetime(2026, 1, 1, tzinfo=UTC))
    finding = qgs_checks.Answer().look(RealHost(), around)
    assert (finding.status, finding.found[:10]) == (Status.OK, "TD QE SVN ")
    assert qgs_checks.Socket().look(RealHost(), around).found.startswith("0600 ")


def test_the_socket_is_for_the_owner_only(server: Path) -> None:
    assert stat.S_IMODE(server.stat().st_mode) == 0o600


def test_a_client_gets_quote_collateral_and_platform_info(
    pki: Pki, server: Path, enclave: QuotingEnclave
) -> None:
    assert still_serves(pki, server)
    assert client.get_collateral(server, pki.platform.fmspc) == pki.collateral()
    assert client.get_platform_info(server).platform_id == enclave.qe_id


def test_a_raw_report_is_answered_with_a_bare_quote(pki: Pki, server: Path) -> None:
    answer = talk(server, make_report(pki).to_bytes())
    assert Quote.parse(answer).trailing == b""


def test_a_refused_raw_report_is_answered_with_nothing(pki: Pki, server: Path) -> None:
    report = make_report(pki).to_bytes()
    assert talk(server, report[:-1] + b"\1") == b""


def test_a_refused_report_is_an_error_with_the_code(pki: Pki, server: Path) -> None:
    with pytest.raises(RejectedError, match=r"INVALID_TYPE \(0x12005\)"):
        client.get_quote(server, bytes(1024))
    with pytest.raises(RejectedError, match="INVALID_PARAMETER"):
        client.get_collateral(server, b"\0" * 6)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 19, 20, 21, 500])
def test_a_request_may_arrive_in_pieces(pki: Pki, server: Path, cut: int) -> None:
    request = frame(GetQuoteRequest(make_report(pki).to_bytes()).to_bytes())
    answer = talk(server, request[:cut], request[cut:], pause=0.01)
    assert GetQuoteResponse.parse(answer[4:]).error_code == ErrorCode.SUCCESS
    assert int.from_bytes(answer[:4], "big") == len(answer) - 4


def test_a_request_may_arrive_byte_by_byte(server: Path) -> None:
    request = frame(GetPlatformInfoRequest().to_bytes())
    answer = talk(server, *(request[at : at + 1] for at in range(len(request))), pause=0.001)
    assert GetPlatformInfoResponse.parse(answer[4:]).qe_isvsvn == 7


def test_a_raw_report_may_arrive_in_pieces(pki: Pki, server: Path) -> None:
    report = make_report(pki).to_bytes()
    assert Quote.parse(talk(server, report[:3], report[3:100], report[100:], pause=0.01))


def test_fifty_clients_at_once_are_all_served(pki: Pki, server: Path) -> None:
    reports = [make_report(pki, report_data=bytes((number,)) * 64) for number in range(50)]

    def quoted(number: int) -> bytes:
        quote = Quote.parse(client.get_quote(server, reports[number].to_bytes()))
        return quote.body.report_data

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(quoted, range(50))) == [report.report_data for report in reports]


# --- bad clients


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0",
        b"\0\0\0\0",
        b"\0\0\0\x0f" + bytes(15),
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        b"\xff" * 5000,
        b"\x81" * 2000,
        struct.pack(">I", 16) + b"\xff" * 16,
        struct.pack(">I", 4092) + bytes(100),
        struct.pack(">I", 0x7FFFFFFF) + bytes(100),
    ],
)
def test_garbage_hurts_nobody(pki: Pki, server: Path, garbage: bytes) -> None:
    with connected(server) as peer:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(garbage)
            peer.shutdown(socket.SHUT_WR)
        read_all(peer)
    assert still_serves(pki, server)


@pytest.mark.parametrize("size", [4093, 1 << 20, 0x7FFFFFFF])
def test_an_oversize_request_is_refused_before_it_is_read(server: Path, size: int) -> None:
    answer = talk(server, size.to_bytes(4, "big") + Header(0, size).to_bytes())
    assert GetQuoteResponse.parse(answer[4:]).error_code == ErrorCode.INVALID_SIZE


def test_what_follows_a_request_is_not_looked_at(server: Path) -> None:
    request = frame(GetPlatformInfoRequest().to_bytes())
    answer = talk(server, request + b"\xff" * 1000)
    assert len(answer) == 4 + 64


def test_a_client_that_stalls_is_dropped_and_holds_up_nobody(pki: Pki, serve: Serve) -> None:
    with serve(Limits(seconds=0.8)) as path, contextlib.ExitStack() as stack:
        begun = time.monotonic()
        stalled = [stack.enter_context(connected(path)) for _ in range(20)]
        for number, peer in enumerate(stalled):
            peer.sendall((b"", b"\x81", b"\0\0\0\x10", b"\0\0\0\x10\1\0")[number % 4])
        assert still_serves(pki, path)
        assert time.monotonic() - begun < 0.8
        for peer in stalled:
            assert read_all(peer) == b""
        assert time.monotonic() - begun >= 0.8


def test_a_client_that_does_not_read_its_answer_is_dropped(pki: Pki, serve: Serve) -> None:
    request = frame(GetQuoteRequest(make_report(pki).to_bytes()).to_bytes())
    with serve(Limits(seconds=0.2)) as path, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(path)) for _ in range(10)]
        for peer in peers:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            peer.sendall(request)
        assert still_serves(pki, path)


def test_the_oldest_client_gives_way_when_there_are_too_many(pki: Pki, serve: Serve) -> None:
    with serve(Limits(clients=8)) as path, contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(connected(path)) for _ in range(8)]
        assert still_serves(pki, path)
        assert read_all(stalled[0]) == b""
        stalled[7].sendall(frame(GetPlatformInfoRequest().to_bytes()))
        assert len(read_all(stalled[7])) == 4 + 64


def test_ending_the_service_drops_its_clients(serve: Serve) -> None:
    with contextlib.ExitStack() as stack:
        with serve(Limits()) as path:
            peer = stack.enter_context(connected(path))
            peer.sendall(b"\0\0")
            assert client.get_platform_info(path), "so the one before is connected too"
        assert read_all(peer) == b""


# --- the socket itself


def test_a_stale_socket_is_replaced(serve: Serve, socket_dir: Path, pki: Pki) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(socket_dir / "qgs.sock"))
    stale.close()
    with serve(Limits()) as path:
        assert still_serves(pki, path)


def listen_on(path: Path, enclave: QuotingEnclave, **options: int) -> None:
    async def run() -> None:
        responder = Responder(enclave, enclave.pki.collateral, lambda _line: None)
        async with listening(responder, path, vsock_port=options.get("vsock_port")):
            pass

    asyncio.run(run())


def test_a_file_that_is_no_socket_is_left_alone(socket_dir: Path, enclave: QuotingEnclave) -> None:
    (socket_dir / "qgs.sock").write_text("mine")
    with pytest.raises(UnavailableError, match="in use"):
        listen_on(socket_dir / "qgs.sock", enclave)
    assert (socket_dir / "qgs.sock").read_text() == "mine"


def test_a_path_that_is_too_long_for_a_socket_is_named(socket_dir: Path, enclave: QuotingEnclave) -> None:
    with pytest.raises(UsageError, match="longer than 107 bytes"):
        listen_on(socket_dir / ("x" * 100) / "qgs.sock", enclave)


def test_on_vsock_it_listens_where_the_host_has_it(socket_dir: Path, enclave: QuotingEnclave) -> None:
    port = 0xFFFFFFFF  # any
    try:
        listen_on(socket_dir / "qgs.sock", enclave, vsock_port=port)
    except UnavailableError as error:
        assert "vsock port" in error.message and error.hint
    assert not (socket_dir / "qgs.sock").exists()


# --- the client


def test_the_client_names_a_service_that_is_not_there(socket_dir: Path) -> None:
    with pytest.raises(UnavailableError, match=r"nobody\.sock"):
        client.get_platform_info(socket_dir / "nobody.sock")


@contextlib.contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[None]:
    """A service that answers one client with `answer`, or never."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()
        done = threading.Event()

        def serve_one() -> None:
            peer, _ = listener.accept()
            with contextlib.closing(peer):
                peer.recv(65536)
                if answer is None:
                    done.wait(5)
                else:
                    peer.sendall(answer)

        thread = threading.Thread(target=serve_one)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(5)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        b"\0\0\0\x64short",
        b"\0\0\0\0",
        frame(b"x" * 64),
        frame(GetQuoteResponse(b"q").to_bytes()),
    ],
)
def test_the_client_refuses_an_answer_that_makes_no_sense(socket_dir: Path, answer: bytes) -> None:
    path = socket_dir / "odd.sock"
    with answering(path, answer), pytest.raises(MalformedError):
        client.get_platform_info(path)


def test_the_client_does_not_believe_in_huge_answers(socket_dir: Path) -> None:
    path = socket_dir / "huge.sock"
    with (
        answering(path, b"\xff\xff\xff\xff"),
        pytest.raises(MalformedError, match="announces 4294967295 bytes"),
    ):
        client.get_platform_info(path)


def test_the_client_does_not_wait_for_ever(socket_dir: Path) -> None:
    path = socket_dir / "mute.sock"
    with answering(path, None), pytest.raises(UnavailableError, match=r"within 0\.1 s"):
        client.get_platform_info(path, timeout=0.1)
