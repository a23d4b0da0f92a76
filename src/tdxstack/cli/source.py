"""Options of the commands that fetch collateral: from where, through what, and what of the cache to use."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import click

from tdxstack.cli import EXISTING_FILE
from tdxstack.cli.edge import directories, now
from tdxstack.collateral.cache import AnswerCache
from tdxstack.collateral.fetch import CacheUse, Client
from tdxstack.collateral.network import Network
from tdxstack.collateral.service import EARLY, STANDARD, Evaluation, Service
from tdxstack.errors import UsageError
from tdxstack.run import Report, silent

API_KEY_VARIABLE = "TDX_API_KEY"

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Source:
    """What the options say; `evaluation` is what of Intel's TCB evaluations to ask for."""

    name: str = "pcs"
    ca_file: Path | None = None
    api_key_file: Path | None = None
    allow_http: bool = False
    cache_use: CacheUse = CacheUse.NORMAL
    evaluation: Evaluation = STANDARD

    @property
    def service(self) -> Service:
        """The service. Raises `UsageError` for an address that is none."""
        return Service.named(self.name, allow_http=self.allow_http)

    def client(self, report: Report = silent, note: Callable[[str], None] = lambda text: None) -> Client:
        """How to fetch from it, with the user's cache, proxy and API key."""
        return Client(
            service=self.service,
            clock=now,
            network=Network(ca_file=self.ca_file, proxy_for=_proxy_for),
            cache=AnswerCache(directories().cache / "collateral"),
            cache_use=self.cache_use,
            api_key=_api_key(self.api_key_file),
            report=report,
            note=note,
        )


def source_options(command: Command) -> Command:
    """Add the options; the command takes what they say as `source`, a `Source`."""

    @functools.wraps(command)
    def with_source(
        *,
        source: str,
        ca_file: Path | None,
        api_key_file: Path | None,
        allow_http: bool,
        refresh: bool,
        offline: bool,
        early: bool,
        evaluation: int | None,
        **others: Any,
    ) -> Any:
        if (refresh and offline) or (early and evaluation is not None):
            pair = "--refresh and --offline" if refresh and offline else "--early and --evaluation"
            raise UsageError(f"{pair} contradict each other", hint="give one of them")
        use = CacheUse.REFRESH if refresh else CacheUse.OFFLINE if offline else CacheUse.NORMAL
        wanted: Evaluation = EARLY if early else STANDARD if evaluation is None else evaluation
        return command(source=Source(source, ca_file, api_key_file, allow_http, use, wanted), **others)

    options = (
        click.option(
            "--source",
            default="pcs",
            show_default=True,
            metavar="pcs|pccs|URL",
            help="Intel's service, a PCCS on this machine, or the address of another.",
        ),
        click.option(
            "--early", is_flag=True, help="Ask for Intel's early TCB evaluation, not the standard one."
        ),
        click.option(
            "--evaluation", type=click.IntRange(0, 0xFFFF_FFFF), metavar="N", help="Ask for TCB evaluation N."
        ),
        click.option(
            "--ca-file", type=EXISTING_FILE, help="CA (PEM) of the source, in place of the system's."
        ),
        click.option(
            "--api-key-file",
            type=EXISTING_FILE,
            help=f"File with the API key of the source. [default: ${API_KEY_VARIABLE}]",
        ),
        click.option("--allow-http", is_flag=True, help="Accept a source without TLS on another machine."),
        click.option("--refresh", is_flag=True, help="Fetch also what the cache has."),
        click.option("--offline", is_flag=True, help="Use the cache alone, however old."),
    )
    decorated: Command = cast(Command, with_source)
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for `url`: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY."""
    parts = urlsplit(url)
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc, proxies):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _api_key(path: Path | None) -> str:
    key = path.read_text("utf-8", "replace").strip() if path else os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable() or len(key) > 4096:
        raise UsageError(
            f"{path or API_KEY_VARIABLE} holds no API key", hint="an API key is one line of printable ASCII"
        )
    return key
