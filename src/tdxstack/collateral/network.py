"""How the network is used to fetch collateral: whom to trust, through which proxy, how much and how long."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tdxstack.errors import UsageError

MAX_BODY: Final = 4 << 20
"""Bytes of one answer; TCB info and revocation lists have tens of thousands."""

ATTEMPT_SECONDS: Final = 20.0
"""For one attempt, from the name's resolution to the last byte."""


def no_proxy(_url: str) -> str | None:
    """Connect to everything directly."""
    return None


@dataclass(frozen=True, slots=True)
class Network:
    """How to reach a service. `proxy_for` gives the proxy for a URL, or None.

    `ca_file` (PEM) replaces the system's authorities, as for a PCCS with a certificate of its own.
    """

    ca_file: Path | None = None
    proxy_for: Callable[[str], str | None] = no_proxy
    attempt_seconds: float = ATTEMPT_SECONDS
    max_body: int = MAX_BODY
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)

    def tls(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, with names and certificates checked. Raises `UsageError` for a bad file."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"CA file {self.ca_file} cannot be used: {error.strerror or error}",
                hint="give certificates in PEM",
            ) from None
