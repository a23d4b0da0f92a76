from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.cache import AnswerCache
from tdxstack.collateral.fetch import (
    API_KEY_HEADER,
    LIFETIME,
    MAX_LIFETIME,
    CacheUse,
    Client,
    fetch_collateral,
    fetch_collateral_async,
    planned_urls,
)
from tdxstack.collateral.http import DELAYS
from tdxstack.collateral.network import Network
from tdxstack.collateral.platform_id import PlatformId, subject_of
from tdxstack.collateral.service import PCS, Service
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.quoting.authority import new_key
from tests.recorded_boot import Keys, pki_in, synthetic_boot, with_qe_identity, with_tcb_info
from tests.unit.collateral.pcs_server import PcsServer, raw, send, serving, status, unused_port

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TCB = "/tdx/certification/v4/tcb"
QE = "/tdx/certification/v4/qe/identity"
CRL = "/sgx/certification/v4/pckcrl"
ROOT = "/sgx/certification/v4/rootcacrl"


@pytest.fixture(scope="module")
def pki_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(scope="module")
def collateral(pki_directory: Path) -> Collateral:
    return pki_in(pki_directory, NOW).collateral()


@pytest.fixture
def server(collateral: Collateral) -> Iterator[PcsServer]:
    with serving(collateral) as server:
        yield server


@pytest.fixture
def platform(collateral: Collateral) -> PlatformId:
    return subject_of(collateral).platform


class Sleeps(list[float]):
    """Waits not at all, and remembers how long it should have been."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client_of(server: PcsServer, cache: Path | None = None, **network: Any) -> Client:
    settings = replace(Network(sleep=Sleeps(), attempt_seconds=5.0), **network)
    return Client(
        Service(server.origin), lambda: NOW, settings, AnswerCache(cache) if cache is not None else None
    )


def slept(client: Client) -> list[float]:
    assert isinstance(client.network.sleep, Sleeps)
    return client.network.sleep


def test_fetches_what_the_service_has(
    server: PcsServer, collateral: Collateral, platform: PlatformId
) -> None:
    client = client_of(server)
    assert fetch_collateral(platform, client) == collateral
    fmspc = platform.fmspc.hex().upper()
    assert server.requests == [
        f"{TCB}?fmspc={fmspc}&update=standard",
        f"{QE}?update=standard",
        f"{CRL}?ca=platform&encoding=der",
        ROOT,
    ]
    assert [server.origin + request for request in server.requests] == list(
        planned_urls(platform, client.service)
    )
    assert slept(client) == []


def test_async_twin(server: PcsServer, collateral: Collateral, platform: PlatformId) -> None:
    assert asyncio.run(fetch_collateral_async(platform, client_of(server))) == collateral


def test_early_and_numbered_evaluations_are_asked_for(server: PcsServer, platform: PlatformId) -> None:
    fetch_collateral(platform, client_of(server), "early")
    assert [request.endswith("update=early") for request in server.requests] == [True, True, False, False]
    fetch_collateral(platform, client_of(server), 20)
    assert server.requests[4].endswith("&tcbEvaluationDataNumber=20")
    assert server.requests[5].endswith("?tcbEvaluationDataNumber=20")


def test_source_that_ignores_the_number_is_noticed(server: PcsServer, platform: PlatformId) -> None:
    with pytest.raises(UnavailableError, match="tcbEvaluationDataNumber is 20, asked for was 18"):
        fetch_collateral(platform, client_of(server), 18)


def test_old_header_name_of_the_tcb_info_chain(
    server: PcsServer, collateral: Collateral, platform: PlatformId
) -> None:
    chain = (
        collateral.tcb_info_issuer_chain.decode().replace("\n", "%0A").replace("+", "%2B").replace(" ", "%20")
    )
    server.script[TCB] = [
        lambda handler: send(handler, 200, collateral.tcb_info, {"SGX-TCB-Info-Issuer-Chain": chain})
    ]
    assert fetch_collateral(platform, client_of(server)) == collateral


# What the source answers wrongly


def test_other_platform_is_refused(server: PcsServer, platform: PlatformId) -> None:
    other = replace(platform, fmspc=bytes.fromhex("00806f050000"))
    with pytest.raises(UnavailableError, match=r"FMSPC is '.*', asked for was '00806f050000'") as caught:
        fetch_collateral(other, client_of(server))
    assert f"{server.origin}{TCB}" in caught.value.message


def test_other_ca_is_refused(server: PcsServer, platform: PlatformId) -> None:
    with pytest.raises(UnavailableError, match="CA is 'platform', asked for was 'processor'"):
        fetch_collateral(replace(platform, ca="processor"), client_of(server))


def test_other_tee_is_refused(server: PcsServer, collateral: Collateral, platform: PlatformId) -> None:
    chain = {"TCB-Info-Issuer-Chain": "-----BEGIN CERTIFICATE-----"}
    server.script["/sgx/certification/v4/tcb"] = [
        lambda handler: send(handler, 200, collateral.tcb_info, chain)
    ]
    with pytest.raises(UnavailableError, match="id is 'TDX', asked for was 'SGX'"):
        fetch_collateral(replace(platform, tee="SGX"), client_of(server))


@pytest.mark.parametrize("enclave", ["QE", "TD_QE"])
def test_sgx_has_addresses_and_an_enclave_of_its_own(
    server: PcsServer, collateral: Collateral, platform: PlatformId, enclave: str
) -> None:
    tcb_info = collateral.tcb_info.replace(b'"id":"TDX"', b'"id":"SGX"', 1)
    identity = collateral.qe_identity.replace(b'"id":"TD_QE"', f'"id":"{enclave}"'.encode(), 1)
    names = ("TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain")
    chain = dict.fromkeys(names, "-----BEGIN CERTIFICATE-----")
    api = "/sgx/certification/v4"
    server.script[f"{api}/tcb"] = [lambda handler: send(handler, 200, tcb_info, chain)]
    server.script[f"{api}/qe/identity"] = [lambda handler: send(handler, 200, identity, chain)]
    sgx = replace(platform, tee="SGX")
    if enclave == "QE":
        assert fetch_collateral(sgx, client_of(server)).qe_identity == identity
        return
    with pytest.raises(UnavailableError, match="id is 'TD_QE', asked for was 'QE'"):
        fetch_collateral(sgx, client_of(server))


@pytest.mark.parametrize("path", [TCB, QE, CRL, ROOT])
@pytest.mark.parametrize("body", [b"", b"<html>a portal</html>", b"{}", b"30" * 40])
def test_wrong_content_is_refused(server: PcsServer, platform: PlatformId, path: str, body: bytes) -> None:
    chain = "-----BEGIN CERTIFICATE-----"
    names = ("TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain")
    server.script[path] = [lambda handler: send(handler, 200, body, dict.fromkeys(names, chain))]
    with pytest.raises(UnavailableError, match="that was asked for") as caught:
        fetch_collateral(platform, client_of(server))
    assert server.origin + path in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("path", [TCB, QE, CRL])
@pytest.mark.parametrize(
    "chain", [None, "", "none", "%ff-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----" + "A" * 65536]
)
def test_issuer_chain_must_be_there(
    server: PcsServer, collateral: Collateral, platform: PlatformId, path: str, chain: str | None
) -> None:
    bodies = {TCB: collateral.tcb_info, QE: collateral.qe_identity, CRL: collateral.pck_crl}
    names = ("TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain")
    headers = {} if chain is None else dict.fromkeys(names[{TCB: 0, QE: 1, CRL: 2}[path] :][:1], chain)
    server.script[path] = [lambda handler: send(handler, 200, bodies[path], headers)]
    with pytest.raises(UnavailableError, match=r"has no header|issuer chain in the answer"):
        fetch_collateral(platform, client_of(server))


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (400, "version 4"),
        (401, "--api-key-file"),
        (404, "FMSPC"),
        (410, "withdrawn"),
        (461, "PCCS"),
        (418, "log"),
    ],
)
def test_refusals_are_final_and_explained(
    server: PcsServer, platform: PlatformId, code: int, hint: str
) -> None:
    server.script[TCB] = [status(code)]
    client = client_of(server)
    with pytest.raises(UnavailableError, match=f"HTTP status {code}") as caught:
        fetch_collateral(platform, client)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3
    assert slept(client) == []


# What the network does


@pytest.mark.parametrize(
    "fault",
    [
        status(429),
        status(500),
        status(503),
        raw(b""),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ncut short"),
        raw(b"no http at all\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
    ],
)
def test_passing_faults_are_tried_again(
    server: PcsServer,
    collateral: Collateral,
    platform: PlatformId,
    fault: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    server.script[TCB] = [fault] * len(DELAYS)
    client = client_of(server)
    assert fetch_collateral(platform, client) == collateral
    assert slept(client) == list(DELAYS)


def test_lasting_faults_end(server: PcsServer, platform: PlatformId) -> None:
    server.script[TCB] = [status(503)] * 9
    client = client_of(server)
    with pytest.raises(UnavailableError, match=r"HTTP status 503 \(4 attempts\)") as caught:
        fetch_collateral(platform, client)
    assert f"{server.origin}{TCB}" in caught.value.message
    assert caught.value.hint
    assert slept(client) == list(DELAYS)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": "0"}, 0.0),
        ({"Retry_After": "soon"}, DELAYS[0]),
        ({"Retry_After": "Wed, 04 Mar 2026 05:06:20 GMT", "Date": "Wed, 04 Mar 2026 05:06:00 GMT"}, 20.0),
        ({"Retry_After": "Wed, 04 Mar 2026 05:06:20 GMT", "Date": "never"}, DELAYS[0]),
    ],
)
def test_retry_after_is_honoured(
    server: PcsServer, platform: PlatformId, headers: dict[str, str], expected: float
) -> None:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    answer = "\r\n".join(["HTTP/1.1 429 Slow down", *lines, "Connection: close", "Content-Length: 0", "", ""])
    server.script[TCB] = [raw(answer.encode())]
    client = client_of(server)
    fetch_collateral(platform, client)
    assert slept(client) == [expected]


def test_retry_after_is_bounded(server: PcsServer, platform: PlatformId) -> None:
    server.script[TCB] = [status(503, Retry_After="3600")]
    client = client_of(server)
    with pytest.raises(UnavailableError, match="asks to wait 3600 s"):
        fetch_collateral(platform, client)
    assert slept(client) == []


def test_nobody_listens(collateral: Collateral, platform: PlatformId) -> None:
    client = client_of(PcsServer(collateral, port=unused_port()))
    with pytest.raises(UnavailableError, match=r"cannot be fetched: .*connect.*\(4 attempts\)") as caught:
        fetch_collateral(platform, client)
    assert "proxy" in caught.value.hint


def test_too_large_an_answer_is_not_read(server: PcsServer, platform: PlatformId) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            handler.wfile.write(bytes(65536))

    server.script[TCB] = [flood]
    with pytest.raises(UnavailableError, match="more than 100000 bytes"):
        fetch_collateral(platform, client_of(server, max_body=100_000))


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_slow_drip_is_cut_off(server: PcsServer, platform: PlatformId, start: bytes) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while True:
            handler.wfile.write(b"H")
            time.sleep(0.01)

    server.script[TCB] = [drip] * 4
    with pytest.raises(UnavailableError, match=r"no complete answer within 0.1 s \(4 attempts\)"):
        fetch_collateral(platform, client_of(server, attempt_seconds=0.1))


def test_compressed_answer_is_refused_unopened(server: PcsServer, platform: PlatformId) -> None:
    bomb = gzip.compress(bytes(10 << 20))
    server.script[TCB] = [lambda handler: send(handler, 200, bomb, {"Content-Encoding": "gzip"})]
    with pytest.raises(UnavailableError, match="compressed"):
        fetch_collateral(platform, client_of(server))
    assert server.request_headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("target", ["https://elsewhere.example/", "/other", "//elsewhere/\xe9"])
def test_redirection_is_refused(server: PcsServer, platform: PlatformId, target: str) -> None:
    server.script[TCB] = [status(302, Location=target)]
    with pytest.raises(UnavailableError, match="redirected to") as caught:
        fetch_collateral(platform, client_of(server))
    assert caught.value.message.isprintable()
    assert len(server.requests) == 1


# TLS, proxies, keys


def test_own_ca_file(collateral: Collateral, platform: PlatformId, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with serving(collateral, tls=(certificate, key)) as server:
        assert fetch_collateral(platform, client_of(server, ca_file=certificate)) == collateral
        untrusting = client_of(server)
        with pytest.raises(UnavailableError, match="certificate is not trusted") as caught:
            fetch_collateral(platform, untrusting)
        assert "--ca-file" in caught.value.hint
        assert slept(untrusting) == []


def test_ca_file_must_be_one(server: PcsServer, platform: PlatformId, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "absent"):
        with pytest.raises(UsageError, match=f"CA file .*{name} cannot be used"):
            fetch_collateral(platform, client_of(server, ca_file=tmp_path / name))


def test_tls_is_checked() -> None:
    context = Network().tls()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_proxy_is_used(server: PcsServer, collateral: Collateral, platform: PlatformId) -> None:
    """The test server takes requests in the form that proxies get, and answers them itself."""
    asked: list[str] = []

    def proxy_for(url: str) -> str:
        asked.append(url)
        return server.origin

    client = replace(client_of(server, proxy_for=proxy_for), service=Service("http://pccs.example:8081"))
    assert fetch_collateral(platform, client) == collateral
    assert server.requests[0].startswith(f"http://pccs.example:8081{TCB}?")
    assert len(asked) == 4


def test_proxy_problems_do_not_show_its_password(server: PcsServer, platform: PlatformId) -> None:
    with pytest.raises(UsageError, match="proxy") as caught:
        fetch_collateral(platform, client_of(server, proxy_for=lambda url: "ftp://u:secret@x"))
    assert "secret" not in caught.value.message + caught.value.hint
    for proxy in ("socks5://u:secret@x", "nothing"):
        with pytest.raises(UsageError, match="proxy") as caught:
            fetch_collateral(platform, client_of(server, proxy_for=lambda url, proxy=proxy: proxy))
        assert "secret" not in caught.value.message + caught.value.hint
    dead = client_of(server, proxy_for=lambda url: f"http://u:secret@127.0.0.1:{unused_port()}")
    with pytest.raises(UnavailableError) as failed:
        fetch_collateral(platform, dead)
    assert "secret" not in failed.value.message + failed.value.hint


def test_api_key_goes_to_the_service_alone_and_is_not_shown(
    collateral: Collateral, platform: PlatformId
) -> None:
    with serving(collateral) as crl_server, serving(collateral) as server:
        server.collateral = with_distribution_point(collateral, f"{crl_server.origin}/root.der")
        client = replace(client_of(server), api_key="0123456789abcdef")
        assert "0123456789abcdef" not in repr(client)
        server.script[ROOT] = [status(404)]
        with pytest.raises(UnavailableError, match="no reason to ask it"):
            fetch_collateral(platform, client)
        assert [headers.get(API_KEY_HEADER.lower()) for headers in server.request_headers] == [
            client.api_key
        ] * 4
        assert crl_server.requests == []


def test_api_key_does_not_go_where_the_root_certificate_says(
    collateral: Collateral, platform: PlatformId, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On loopback there is no other host that may be named: Intel's would be.
    monkeypatch.setattr(Service, "may_name", lambda self, url: True)
    with serving(collateral) as crl_server, serving(collateral) as server:
        server.collateral = with_distribution_point(collateral, f"{crl_server.origin}/root.der")
        server.script[ROOT] = [status(404)]
        fetch_collateral(platform, replace(client_of(server), api_key="key"))
        assert [API_KEY_HEADER.lower() in headers for headers in server.request_headers] == [True] * 4
        assert [API_KEY_HEADER.lower() in headers for headers in crl_server.request_headers] == [False]


def test_api_key_does_not_go_over_plain_http(platform: PlatformId, server: PcsServer) -> None:
    client = replace(client_of(server, proxy_for=lambda url: server.origin), api_key="key")
    client = replace(client, service=Service.named("http://pccs.example", allow_http=True))
    with pytest.raises(UsageError, match="has no TLS"):
        fetch_collateral(platform, client)
    assert server.requests == []


def test_address_that_httpx_cannot_use(platform: PlatformId, server: PcsServer) -> None:
    client = replace(client_of(server), service=Service("http://xn--a.example"))
    with pytest.raises(UnavailableError, match=r"xn--a\.example") as caught:
        fetch_collateral(platform, client)
    assert caught.value.hint


# The root's revocation list


def test_root_crl_from_the_distribution_point(
    server: PcsServer, collateral: Collateral, platform: PlatformId
) -> None:
    server.collateral = with_distribution_point(collateral, f"{server.origin}/root.der")
    server.script[ROOT] = [status(404)]
    assert fetch_collateral(platform, client_of(server)).root_ca_crl == collateral.root_ca_crl
    assert server.requests[-1] == "/root.der"


def test_root_crl_nowhere(server: PcsServer, platform: PlatformId) -> None:
    server.script[ROOT] = [status(404)]
    with pytest.raises(UnavailableError, match=f"{ROOT} cannot be fetched: HTTP status 404"):
        fetch_collateral(platform, client_of(server))


# The cache


def test_fresh_answers_are_not_asked_for_again(
    server: PcsServer, collateral: Collateral, platform: PlatformId, tmp_path: Path
) -> None:
    client = client_of(server, tmp_path / "cache")
    fetch_collateral(platform, client)
    assert fetch_collateral(platform, client) == collateral
    assert len(server.requests) == 4
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    later = replace(client, clock=lambda: NOW + LIFETIME)
    fetch_collateral(platform, later)
    assert len(server.requests) == 8
    earlier = replace(client, clock=lambda: NOW - timedelta(days=3))
    fetch_collateral(platform, earlier)
    assert len(server.requests) == 12, "an answer from the future is not fresh"


def test_evaluations_are_kept_apart(server: PcsServer, platform: PlatformId, tmp_path: Path) -> None:
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    fetch_collateral(platform, client, "early")
    assert len(server.requests) == 6, "CRLs are the same"


@pytest.mark.parametrize(
    ("control", "lifetime"),
    [
        ("max-age=3600", timedelta(hours=1)),
        ("public, max-age=60", timedelta(minutes=1)),
        ("max-age=999999999", MAX_LIFETIME),
        ("no-cache", timedelta()),
        ("private", LIFETIME),
    ],
)
def test_cache_control(
    server: PcsServer, platform: PlatformId, tmp_path: Path, control: str, lifetime: timedelta
) -> None:
    server.headers = {"Cache-Control": control}
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    if lifetime:
        fetch_collateral(platform, replace(client, clock=lambda: NOW + lifetime - timedelta(seconds=1)))
        assert len(server.requests) == 4
    fetch_collateral(platform, replace(client, clock=lambda: NOW + lifetime))
    assert len(server.requests) == 8


def test_no_store(server: PcsServer, platform: PlatformId, tmp_path: Path) -> None:
    server.headers = {"Cache-Control": "no-store"}
    fetch_collateral(platform, client_of(server, tmp_path))
    kept = [AnswerCache(tmp_path).load(server.origin + request) for request in server.requests]
    assert kept[:3] == [None] * 3


def test_next_update_ends_freshness(
    server: PcsServer, pki_directory: Path, platform: PlatformId, tmp_path: Path
) -> None:
    pki = pki_in(pki_directory, NOW)
    boot, keys = synthetic_boot(pki, NOW), Keys.of(pki)
    soon = {"nextUpdate": (NOW + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    boot = with_tcb_info(boot, keys, lambda value: value.update(soon))
    server.collateral = with_qe_identity(boot, keys, lambda value: value.update(soon)).collateral
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    fetch_collateral(platform, replace(client, clock=lambda: NOW + timedelta(minutes=4)))
    assert len(server.requests) == 4
    fetch_collateral(platform, replace(client, clock=lambda: NOW + timedelta(minutes=5)))
    assert len(server.requests) == 6, "TCB info and QE identity, not the CRLs"


def test_etag_saves_the_body(
    server: PcsServer, collateral: Collateral, platform: PlatformId, tmp_path: Path
) -> None:
    server.etag = '"v1"'
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    server.collateral = replace(collateral, tcb_info=b"not sent while the tag matches")
    later = replace(client, clock=lambda: NOW + LIFETIME)
    assert fetch_collateral(platform, later) == collateral
    assert [headers.get("if-none-match") for headers in server.request_headers] == [None] * 4 + ['"v1"'] * 4
    assert fetch_collateral(platform, later) == collateral
    assert len(server.requests) == 8, "304 makes it fresh"


def test_304_without_a_tag_is_refused(server: PcsServer, platform: PlatformId, tmp_path: Path) -> None:
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    server.script[TCB] = [status(304)]
    with pytest.raises(UnavailableError, match="HTTP status 304"):
        fetch_collateral(platform, replace(client, clock=lambda: NOW + LIFETIME))


@pytest.mark.parametrize("tag", ['"\xe9"', "x" * 1025])
def test_etag_that_could_not_be_sent_back_is_ignored(
    server: PcsServer, platform: PlatformId, tmp_path: Path, tag: str
) -> None:
    server.etag = tag
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    fetch_collateral(platform, replace(client, clock=lambda: NOW + LIFETIME))
    assert [headers.get("if-none-match") for headers in server.request_headers] == [None] * 8


def test_304_that_was_not_asked_for_is_refused(server: PcsServer, platform: PlatformId) -> None:
    server.script[TCB] = [status(304)]
    with pytest.raises(UnavailableError, match="HTTP status 304"):
        fetch_collateral(platform, client_of(server))


def test_refresh_asks_for_everything(server: PcsServer, platform: PlatformId, tmp_path: Path) -> None:
    server.etag = '"v1"'
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    fetch_collateral(platform, replace(client, cache_use=CacheUse.REFRESH))
    assert [headers.get("if-none-match") for headers in server.request_headers] == [None] * 8


def test_offline_takes_what_is_kept_however_old(
    server: PcsServer, collateral: Collateral, platform: PlatformId, tmp_path: Path
) -> None:
    client = client_of(server, tmp_path)
    offline = replace(client, cache_use=CacheUse.OFFLINE, clock=lambda: NOW + timedelta(days=1000))
    with pytest.raises(UnavailableError, match="TCB info is not in the cache") as caught:
        fetch_collateral(platform, offline)
    assert "without --offline" in caught.value.hint
    assert server.requests == []
    fetch_collateral(platform, client)
    assert fetch_collateral(platform, offline) == collateral
    assert len(server.requests) == 4


def test_old_answers_do_not_replace_a_failed_fetch(
    server: PcsServer, platform: PlatformId, tmp_path: Path
) -> None:
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    server.script[TCB] = [status(503)] * 4
    with pytest.raises(UnavailableError, match="503") as caught:
        fetch_collateral(platform, replace(client, clock=lambda: NOW + LIFETIME))
    assert "--offline" in caught.value.hint


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data.replace(b'"stored": "2026', b'"stored": "2027'),
        lambda data: b"[]",
        lambda data: b"[" * 100_000,
        lambda data: b"\xff",
        lambda data: b'{"sha256": 1}',
    ],
)
def test_damaged_entries_are_fetched_again(
    server: PcsServer,
    collateral: Collateral,
    platform: PlatformId,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    notes: list[str] = []
    client = replace(client_of(server, tmp_path), note=notes.append)
    fetch_collateral(platform, client)
    for path in tmp_path.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnavailableError, match="is damaged"):
        fetch_collateral(platform, replace(client, cache_use=CacheUse.OFFLINE))
    notes.clear()
    assert fetch_collateral(platform, client) == collateral
    assert len(server.requests) == 8
    assert sum("damaged" in note for note in notes) == 4


def test_entry_of_another_url_is_damaged(server: PcsServer, platform: PlatformId, tmp_path: Path) -> None:
    client = client_of(server, tmp_path)
    fetch_collateral(platform, client)
    first, second = sorted(tmp_path.iterdir())[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(UnavailableError, match="of another URL"):
        fetch_collateral(platform, replace(client, cache_use=CacheUse.OFFLINE))


def test_many_may_use_the_cache_at_once(
    server: PcsServer, collateral: Collateral, platform: PlatformId, tmp_path: Path
) -> None:
    refreshing = replace(client_of(server, tmp_path), cache_use=CacheUse.REFRESH)
    offline = replace(refreshing, cache_use=CacheUse.OFFLINE)
    fetch_collateral(platform, refreshing)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda client: fetch_collateral(platform, client), [refreshing, offline] * 6))
    assert found == [collateral] * 12
    assert len(list(tmp_path.iterdir())) == 4


def test_cache_that_cannot_be_written_is_said_and_no_failure(
    server: PcsServer, collateral: Collateral, platform: PlatformId, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    notes: list[str] = []
    client = replace(client_of(server, tmp_path / "file"), note=notes.append)
    assert fetch_collateral(platform, client) == collateral
    assert sum("is not kept" in note for note in notes) == 4


# Addresses


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("pcs", PCS),
        ("pccs", "https://localhost:8081"),
        ("https://pccs.example:8081", "https://pccs.example:8081"),
        ("https://pccs.example/sgx/certification/v4/", "https://pccs.example"),
        ("https://pccs.example/tdx/certification/v4", "https://pccs.example"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1"),
        ("http://[::1]:1", "http://[::1]:1"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_names_of_services(name: str, origin: str) -> None:
    assert Service.named(name) == Service(origin)


@pytest.mark.parametrize(
    "name",
    [
        "", "intel", "ftp://x", "https://", "https://x:99999", "https://x/v4", "https://x/?a=b", "https://u:p@x",
        "https://x\n", "https://[", "http://pccs.example", "http://127.0.0.1.example", "https://x#y", "http://localhost.example",
    ],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        Service.named(name)
    assert caught.value.hint
    assert "u:p" not in caught.value.message


def test_plain_http_can_be_allowed() -> None:
    assert Service.named("http://pccs.example", allow_http=True).origin == "http://pccs.example"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://certificates.trustedservices.intel.com/IntelSGXRootCA.der", True),
        ("https://pccs.example:8081/crl", True),
        ("http://certificates.trustedservices.intel.com/IntelSGXRootCA.der", False),
        ("https://certificates.trustedservices.intel.com.example/", False),
        ("https://eviltrustedservices.intel.com/", False),
        ("https://pccs.example/crl", False),
        ("https://u@pccs.example:8081/crl", False),
        ("file:///etc/passwd", False),
        ("ldap://x", False),
    ],
)
def test_whom_an_unverified_certificate_may_make_us_ask(url: str, allowed: bool) -> None:
    assert Service("https://pccs.example:8081").may_name(url) is allowed


def test_urls_at_intel(platform: PlatformId) -> None:
    base = "https://api.trustedservices.intel.com"
    assert planned_urls(
        PlatformId(bytes.fromhex("90c06f000000"), "processor", "SGX"), Service(PCS), "early"
    ) == (
        f"{base}/sgx/certification/v4/tcb?fmspc=90C06F000000&update=early",
        f"{base}/sgx/certification/v4/qe/identity?update=early",
        f"{base}/sgx/certification/v4/pckcrl?ca=processor&encoding=der",
        "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
    )


def with_distribution_point(collateral: Collateral, url: str) -> Collateral:
    """The same with another root in the chain of the PCK CRL, which names where its CRL is."""
    key, name = new_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    root = certificate_builder(name, key.public_key()).add_extension(
        x509.CRLDistributionPoints([point]), False
    )
    pem = root.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    leaf = collateral.pck_crl_issuer_chain.split(b"-----BEGIN", 2)[1]
    return replace(collateral, pck_crl_issuer_chain=b"-----BEGIN" + leaf + pem)


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A server's certificate for 127.0.0.1 that is its own authority, and its key, as files."""
    key, name = new_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pccs")])
    builder = certificate_builder(name, key.public_key()).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False
    )
    (directory / "pccs.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "pccs.key").write_bytes(pem)
    return directory / "pccs.pem", directory / "pccs.key"


def certificate_builder(name: x509.Name, key: EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key)
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2090, 1, 1, tzinfo=UTC))
    )
