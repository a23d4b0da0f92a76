"""Fetching collateral from a PCS or PCCS: what comes is checked to be what was asked for, not verified."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from tdxstack import interrupts
from tdxstack.collateral import items
from tdxstack.collateral.bundle import Collateral, crl_der
from tdxstack.collateral.cache import AnswerCache, CachedAnswer
from tdxstack.collateral.items import Item
from tdxstack.collateral.network import Network
from tdxstack.collateral.platform_id import PlatformId
from tdxstack.collateral.service import ROOT_CRL_OF_PCS, STANDARD, Evaluation, Service, require_safe
from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.run import Report, silent

if TYPE_CHECKING:
    from tdxstack.collateral.http import Answer, Http

LIFETIME: Final = timedelta(days=1)
"""How long an answer is not asked for again where the server does not say; never beyond its next update."""

MAX_LIFETIME: Final = timedelta(days=7)
"""The same where the server says more."""

MAX_CHAIN: Final = 64 << 10
"""Bytes of an issuer chain."""

API_KEY_HEADER: Final = "Ocp-Apim-Subscription-Key"

_MAX_AGE = re.compile(r"max-age=\"?(\d{1,9})")
_STATUS_HINTS = {
    400: "the source does not understand the request; it may be older than version 4 of the API",
    401: "give the API key of the source with --api-key-file",
    403: "give the API key of the source with --api-key-file; a proxy may also refuse",
    404: "check the FMSPC; a PCCS may not hold this platform; nobody has collateral of emulated platforms",
    410: "this TCB evaluation is withdrawn; leave out its number, or use a file that was kept",
    461: "the PCCS does not know this platform",
    462: "the PCCS has no certificates for this platform",
}


class CacheUse(Enum):
    """NORMAL asks again for what is no longer fresh, REFRESH for everything, OFFLINE for nothing."""

    NORMAL = "normal"
    REFRESH = "refresh"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Client:
    """Where collateral comes from. `clock` gives the time in UTC; the API key goes to `service` alone.

    `report` hears what is being fetched, `note` what is wrong with the cache.
    """

    service: Service
    clock: Callable[[], datetime]
    network: Network = Network()  # noqa: RUF009 - it is frozen
    cache: AnswerCache | None = None
    cache_use: CacheUse = CacheUse.NORMAL
    api_key: str = field(default="", repr=False)
    report: Report = silent
    note: Callable[[str], None] = lambda text: None


class NotFoundError(UnavailableError):
    """The source, or with OFFLINE the cache, does not have the item."""


def fetch_collateral(platform: PlatformId, client: Client, evaluation: Evaluation = STANDARD) -> Collateral:
    """The collateral of a platform, from the cache as far as that is fresh.

    Raises `UnavailableError` naming the URL and the cause, also for an answer that is not what was asked for.
    A program with an event loop awaits `fetch_collateral_async` instead.
    """
    return interrupts.wait(lambda: fetch_collateral_async(platform, client, evaluation))


async def fetch_collateral_async(
    platform: PlatformId, client: Client, evaluation: Evaluation = STANDARD
) -> Collateral:
    """The same for programs with an event loop."""
    # Importing httpx takes longer than most commands run; those that fetch nothing do without it.
    from tdxstack.collateral.http import Http

    service = client.service
    async with Http(client.network) as http:
        fetch = _Fetch(client, http)
        tcb_info = await fetch.item(items.tcb_info(service, platform, evaluation))
        qe_identity = await fetch.item(items.qe_identity(service, platform.tee, evaluation))
        pck_crl = await fetch.item(items.pck_crl(service, platform.ca))
        root_ca_crl = await fetch.root_ca_crl(pck_crl.issuer_chain)
    return Collateral(
        pck_crl_issuer_chain=pck_crl.issuer_chain,
        root_ca_crl=crl_der(root_ca_crl.body),
        pck_crl=crl_der(pck_crl.body),
        tcb_info_issuer_chain=tcb_info.issuer_chain,
        tcb_info=tcb_info.body,
        qe_identity_issuer_chain=qe_identity.issuer_chain,
        qe_identity=qe_identity.body,
    )


def planned_urls(
    platform: PlatformId, service: Service, evaluation: Evaluation = STANDARD
) -> tuple[str, ...]:
    """The addresses that a fetch asks. With Intel's PCS the root certificate has the say about the last."""
    wanted = (
        items.tcb_info(service, platform, evaluation),
        items.qe_identity(service, platform.tee, evaluation),
        items.pck_crl(service, platform.ca),
    )
    last = ROOT_CRL_OF_PCS if service.is_intel else service.root_ca_crl()
    return (*(item.url for item in wanted), last)


class _Fetch:
    """One fetch: items from the cache or the network."""

    def __init__(self, client: Client, http: Http) -> None:
        self._client = client
        self._http = http

    async def root_ca_crl(self, chain: bytes) -> CachedAnswer:
        """The root's revocation list: from a PCCS, or from where the root certificate in `chain` says."""
        service, missing = self._client.service, None
        if not service.is_intel:
            try:
                return await self.item(items.root_ca_crl(service.root_ca_crl()))
            except NotFoundError as error:
                missing = error
        try:
            url = items.distribution_point(chain)
        except MalformedError as error:
            raise missing or _wrong(service.origin, error.message) from None
        if not service.may_name(url):
            raise _wrong(url, f"a certificate from {service.origin} names it, which is no reason to ask it")
        return await self.item(items.root_ca_crl(url))

    async def item(self, item: Item) -> CachedAnswer:
        """A fresh answer."""
        kept = self._kept(item)
        use, now = self._client.cache_use, self._client.clock()
        if use is CacheUse.OFFLINE:
            if kept is None:
                raise NotFoundError(
                    f"{item.name} is not in the cache: {item.url}", hint="fetch it once without --offline"
                )
            return kept
        if use is CacheUse.REFRESH:
            kept = None
        if kept is not None and kept.is_fresh(now):
            return kept
        self._client.report(f"fetching {item.name} from {item.url}", None)
        answer = await self._http.get(item.url, self._headers(item, kept))
        fetched = _accepted(item, answer, kept, now)
        self._keep(fetched, answer.headers)
        return fetched

    def _kept(self, item: Item) -> CachedAnswer | None:
        if self._client.cache is None:
            return None
        try:
            return self._client.cache.load(item.url)
        except MalformedError as error:
            if self._client.cache_use is CacheUse.OFFLINE:
                raise UnavailableError(error.message, hint=error.hint) from None
            self._client.note(f"{error.message}; it is fetched again")
            return None

    def _keep(self, answer: CachedAnswer, headers: Mapping[str, str]) -> None:
        if self._client.cache is None or "no-store" in headers.get("cache-control", "").lower():
            return
        try:
            self._client.cache.store(answer)
        except OSError as error:
            self._client.note(f"the answer is not kept: {error.strerror}: {error.filename}")

    def _headers(self, item: Item, kept: CachedAnswer | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        if kept is not None and kept.etag:
            headers["If-None-Match"] = kept.etag
        to_service = item.url.startswith(f"{self._client.service.origin}/")
        if self._client.api_key and to_service:
            # Nobody in between may learn it: --allow-http is about collateral, which anybody may read.
            require_safe(item.url, allow_http=False)
            headers[API_KEY_HEADER] = self._client.api_key
        return headers


def _accepted(item: Item, answer: Answer, kept: CachedAnswer | None, now: datetime) -> CachedAnswer:
    """The answer, if it is one to the question that was asked. Raises `UnavailableError`."""
    if answer.status == 404:
        raise NotFoundError(_message(item.url, "HTTP status 404"), hint=_STATUS_HINTS[404])
    if answer.status == 304 and kept is not None and kept.etag:
        return replace(kept, stored=now, fresh_until=_fresh_until(item, kept.body, answer.headers, now))
    if answer.status != 200:
        hint = _STATUS_HINTS.get(answer.status, "see what the source's log says, or try another source")
        raise UnavailableError(_message(item.url, f"HTTP status {answer.status}"), hint=hint)
    return CachedAnswer(
        url=item.url,
        body=answer.body,
        issuer_chain=_issuer_chain(item, answer.headers),
        etag=_etag(answer.headers),
        stored=now,
        fresh_until=_fresh_until(item, answer.body, answer.headers, now),
    )


def _fresh_until(item: Item, body: bytes, headers: Mapping[str, str], now: datetime) -> datetime:
    """Until when there is no need to ask again: as the server says, but not beyond the item's next update."""
    try:
        end = item.next_update(body)
    except MalformedError as error:
        raise _wrong(
            item.url, f"the answer is not the {item.name} that was asked for: {error.message}"
        ) from None
    directives = headers.get("cache-control", "").lower()
    age = _MAX_AGE.search(directives)
    lifetime = min(timedelta(seconds=int(age[1])), MAX_LIFETIME) if age else LIFETIME
    if "no-cache" in directives:
        lifetime = timedelta()
    return min(end.astimezone(UTC), now + lifetime)


def _etag(headers: Mapping[str, str]) -> str:
    """The entity tag, or "" for one that could not be sent back."""
    tag = headers.get("etag", "")
    return tag if tag.isascii() and tag.isprintable() and len(tag) <= 1024 else ""


def _issuer_chain(item: Item, headers: Mapping[str, str]) -> bytes:
    if not item.chain_headers:
        return b""
    value = next((headers[name] for name in item.chain_headers if name in headers), None)
    if value is None:
        raise _wrong(item.url, f"the answer has no header {item.chain_headers[0]}")
    chain = unquote_to_bytes(value)
    if b"-----BEGIN CERTIFICATE-----" not in chain or not chain.isascii() or len(chain) > MAX_CHAIN:
        raise _wrong(item.url, f"the issuer chain in the answer's header is none: {chain[:60]!r}")
    return chain


def _message(url: str, cause: str) -> str:
    return f"{url} cannot be fetched: {cause}"


def _wrong(url: str, cause: str) -> UnavailableError:
    return UnavailableError(_message(url, cause), hint="check the source, or name another with --source")
