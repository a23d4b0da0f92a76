"""Intel's provisioning certification service (PCS) and caches of it (PCCS): where they have each item.

Source: Intel PCS API version 4 and the PCCS's routes, which are the same but for the root CA's CRL.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlencode, urlsplit

from tdxstack.collateral.platform_id import TDX, PlatformId
from tdxstack.errors import UsageError

PCS: Final = "https://api.trustedservices.intel.com"
PCCS: Final = "https://localhost:8081"
"""Where Intel's PCCS listens, as it is installed."""

ROOT_CRL_OF_PCS: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""What Intel's root certificate names as its CRL distribution point."""

_INTEL_DOMAIN = ".trustedservices.intel.com"
_API = {tee: f"/{tee.lower()}/certification/v4" for tee in ("SGX", TDX)}
_HINT = "give pcs, pccs, or the address of a PCCS such as https://pccs.example.org:8081"

STANDARD: Final = "standard"
EARLY: Final = "early"
Evaluation = str | int
"""`standard` or `early`, Intel's names for the TCB evaluation in force and the newest one, or its number."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service by its `origin`, scheme and host and port, below which the API's paths are."""

    origin: str

    @classmethod
    def named(cls, name: str, *, allow_http: bool = False) -> Service:
        """`pcs`, `pccs`, or an address with or without the API's path. Raises `UsageError`.

        Plain http is for this machine alone, unless `allow_http`.
        """
        url = {"pcs": PCS, "pccs": PCCS}.get(name, name)
        parts = _split(url)
        path = parts.path.rstrip("/")
        if parts.query or parts.fragment or path not in ("", *_API.values()):
            raise UsageError(f"source {name[:200]!r} is not the address of a PCS or PCCS", hint=_HINT)
        require_safe(url, allow_http=allow_http)
        return cls(f"{parts.scheme}://{parts.netloc}")

    @property
    def is_intel(self) -> bool:
        """Whether this is Intel's own service."""
        return _is_intel(urlsplit(self.origin))

    def tcb_info(self, platform: PlatformId, evaluation: Evaluation) -> str:
        """URL of the TCB info."""
        query = {"fmspc": platform.fmspc.hex().upper()} | _query(evaluation)
        return f"{self.origin}{_API[platform.tee]}/tcb?{urlencode(query)}"

    def qe_identity(self, tee: str, evaluation: Evaluation) -> str:
        """URL of the identity of the quoting enclave that makes quotes for `tee`."""
        return f"{self.origin}{_API[tee]}/qe/identity?{urlencode(_query(evaluation))}"

    def pck_crl(self, ca: str) -> str:
        """URL of the revocation list of PCK certificates."""
        return f"{self.origin}{_API['SGX']}/pckcrl?{urlencode({'ca': ca, 'encoding': 'der'})}"

    def root_ca_crl(self) -> str:
        """URL of the root's revocation list at a PCCS; the PCS itself has none."""
        return f"{self.origin}{_API['SGX']}/rootcacrl"

    def may_name(self, url: str) -> bool:
        """Whether a distribution point in a certificate that this service sent may be asked.

        The certificate is not verified yet, and must not make us ask anybody.
        """
        try:
            parts = _split(url)
        except UsageError:
            return False
        if f"{parts.scheme}://{parts.netloc}" == self.origin:
            return True
        return parts.scheme == "https" and _is_intel(parts)


def require_safe(url: str, *, allow_http: bool) -> None:
    """Raise `UsageError` for an address without TLS, unless it is on this machine or allowed."""
    parts = _split(url)
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname or ""):
        raise UsageError(
            f"{url[:200]} has no TLS: whoever is in between could withhold newer collateral",
            hint="use https, or allow it with --allow-http",
        )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{url[:200]!r} is not an address of the web", hint=_HINT)
    if parts.username is not None or parts.password is not None:
        raise UsageError("the address has a user name or password in it", hint=_HINT)
    return parts


def _is_intel(parts: SplitResult) -> bool:
    return f".{parts.hostname}".endswith(_INTEL_DOMAIN)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _query(evaluation: Evaluation) -> dict[str, str]:
    if isinstance(evaluation, int):
        return {"tcbEvaluationDataNumber": str(evaluation)}
    return {"update": evaluation}
