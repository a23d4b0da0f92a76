"""HTTP as fetching collateral needs it: one small document at a time, bounded in size and in time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final

import httpx

from tdxstack.collateral.network import Network
from tdxstack.errors import UnavailableError, UsageError

DELAYS: Final = (0.5, 1.0, 2.0)
"""Seconds before each further attempt, where the server names none."""

MAX_WAIT: Final = 30.0
"""Seconds that a server may ask us to wait."""

_AGAIN = {429, 500, 502, 503, 504}
_NETWORK_HINT = "check the network and the proxy; collateral can also come from a file or from --offline"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by lower-case name, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """Connections to a few servers, closed with the `async with` block."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._tls = network.tls() if network.ca_file else None
        self._stack = contextlib.AsyncExitStack()
        self._clients: dict[tuple[bool, str | None], httpx.AsyncClient] = {}

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer, whatever its status, but not a redirection.

        What may pass is tried again: no connection, an answer cut short, 429 and 5xx. Raises
        `UnavailableError` naming URL and cause.
        """
        problem = ""
        for delay in (*DELAYS, None):
            wait = delay
            try:
                answer = await self._attempt(url, headers)
            except (httpx.RequestError, TimeoutError) as error:
                problem = self._cause(url, error)
            except (httpx.InvalidURL, UnicodeError) as error:
                raise _failed(url, str(error), "name another source with --source") from None
            else:
                if answer.status not in _AGAIN:
                    return answer
                problem = f"HTTP status {answer.status}"
                asked = _retry_after(answer.headers)
                if asked is not None and asked > MAX_WAIT:
                    raise _failed(url, f"{problem}: the server asks to wait {asked:.0f} s", "try again later")
                wait = delay if asked is None or delay is None else asked
            if wait is not None:
                await self._network.sleep(wait)
        raise _failed(url, f"{problem} ({len(DELAYS) + 1} attempts)", _NETWORK_HINT)

    async def _attempt(self, url: str, headers: Mapping[str, str]) -> Answer:
        client = await self._client(url, self._network.proxy_for(url))
        # Not compressed: what is small on the wire must not be large in memory.
        wanted = {"Accept-Encoding": "identity", **headers}
        # httpx bounds each step; a server that sends a byte a second is bounded here.
        async with asyncio.timeout(self._network.attempt_seconds):
            async with client.stream("GET", url, headers=wanted) as response:
                if response.has_redirect_location:
                    target = response.headers["location"][:200]
                    raise _failed(
                        url,
                        f"redirected to {target!a}",
                        "redirections are not followed; name the right source",
                    )
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise _failed(
                        url, "the answer is compressed although that was not asked for", _NETWORK_HINT
                    )
                body = bytearray()
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > self._network.max_body:
                        raise _failed(
                            url,
                            f"the answer has more than {self._network.max_body} bytes",
                            "this is not collateral; check the source",
                        )
                return Answer(response.status_code, dict(response.headers), bytes(body))

    async def _client(self, url: str, proxy: str | None) -> httpx.AsyncClient:
        secure = url.startswith("https:")
        if (secure, proxy) not in self._clients:
            try:
                client = httpx.AsyncClient(
                    # Without TLS nobody needs to be trusted, and nobody is.
                    verify=self._trust() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                    trust_env=False,
                    proxy=proxy,
                    timeout=self._network.attempt_seconds,
                )
            except (ValueError, ImportError, httpx.InvalidURL):
                raise UsageError(
                    "the proxy is not the address of an HTTP proxy", hint="see HTTPS_PROXY and ALL_PROXY"
                ) from None
            self._clients[secure, proxy] = await self._stack.enter_async_context(client)
        return self._clients[secure, proxy]

    def _trust(self) -> ssl.SSLContext:
        """Whom to trust. Reading all authorities of a system takes long: not done before it is needed."""
        if self._tls is None:
            self._tls = self._network.tls()
        return self._tls

    def _cause(self, url: str, error: Exception) -> str:
        """What happened, in a few words. Raises `UnavailableError` for what will not pass by itself."""
        if isinstance(error, (TimeoutError, httpx.TimeoutException)):
            return f"no complete answer within {self._network.attempt_seconds:g} s"
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise _failed(
                    url,
                    f"the server's certificate is not trusted: {cause.verify_message}",
                    "give the CA of a PCCS with a certificate of its own with --ca-file",
                )
            cause = cause.__cause__ or cause.__context__
        where = "at the proxy: " if isinstance(error, httpx.ProxyError) else ""
        return f"{where}{error or type(error).__name__}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3); a date is compared with the server's own."""
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        span = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])
    except (ValueError, TypeError, KeyError):
        return None
    return max(0.0, span.total_seconds())


def _failed(url: str, cause: str, hint: str) -> UnavailableError:
    return UnavailableError(f"{url} cannot be fetched: {cause}", hint=hint)
