"""The options that every command which verifies something has in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from tdxstack.abi.quote import Quote
from tdxstack.cli import EXISTING_FILE
from tdxstack.cli.edge import now
from tdxstack.cli.progress import progress_display
from tdxstack.cli.source import Source, source_options
from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.fetch import fetch_collateral
from tdxstack.collateral.platform_id import PlatformId
from tdxstack.collateral.reading import MAX_SIZE as MAX_COLLATERAL
from tdxstack.collateral.reading import read_collateral
from tdxstack.errors import MalformedError, UsageError
from tdxstack.evidence.binding import host_key_blob
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, MAX_CHAIN_SIZE, TrustAnchor
from tdxstack.verification.inputs import load
from tdxstack.verification.policy import AnyPolicy, Policy, each
from tdxstack.verification.policy_file import parse_policy
from tdxstack.verification.quoted_platform import platform_of_quote
from tdxstack.yaml_text import MAX_SIZE as MAX_POLICY

Command = TypeVar("Command", bound=Callable[..., Any])


SOURCE_OPTIONS = (
    "source",
    "early",
    "evaluation",
    "ca_file",
    "api_key_file",
    "allow_http",
    "refresh",
    "offline",
)
"""What `source_options` adds."""

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def read_time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """A time in ISO 8601, in UTC where it names no zone."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time such as 2026-12-01T00:00:00Z") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def hex_of(size: int) -> Callback:
    """Reads bytes in hexadecimal, so many of them."""

    def read(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
        if value is None:
            return None
        wanted = f"give {2 * size} hexadecimal digits"
        try:
            octets = bytes.fromhex(value.removeprefix("0x"))
        except ValueError:
            raise click.BadParameter(f"{value[:80]!r} is not hexadecimal; {wanted}") from None
        if len(octets) != size:
            raise click.BadParameter(f"{len(octets)} bytes, not {size}; {wanted}")
        return octets

    return read


@dataclass(frozen=True, slots=True)
class VerificationOptions:
    """What the caller demands, and with which collateral."""

    collateral: Path | None
    at: datetime | None
    policy_text: bytes | None
    """A policy in YAML, read once: what is signed is what was obeyed."""

    trust_anchors: tuple[Path, ...]
    allow: tuple[str, ...]
    forecast: Path | None
    """Collateral of another day, to say what the verdict would be with it."""

    source: Source | None
    """Where to fetch collateral from, if that was asked for."""

    @property
    def time(self) -> datetime:
        """As of when to verify."""
        return self.at or now()

    @property
    def anchors(self) -> tuple[TrustAnchor, ...]:
        """Whom to trust: Intel alone unless others are given."""
        return tuple(map(_trust_anchor, self.trust_anchors)) or (INTEL_SGX_ROOT_CA,)

    @property
    def policy(self) -> AnyPolicy:
        """The policy of the file, or the strict one. Only `--allow` lets it take emulated evidence."""
        policy = Policy() if self.policy_text is None else parse_policy(self.policy_text)
        return each(policy, lambda one: replace(one, allow_emulated="emulated" in self.allow))

    def require_source(self) -> Source:
        """Where to fetch collateral from. Raises `UsageError` if that was not asked for."""
        if self.source is None:
            raise UsageError(
                "there is no collateral to verify with",
                hint="give --collateral FILE (see: tdx collateral fetch), or --fetch to ask Intel's service",
            )
        return self.source

    def collateral_for(self, quote: Quote | None, pck_chain: bytes | None = None) -> Collateral:
        """The collateral for the platform of `quote`, from the file or the network.

        Raises `UsageError` where neither was asked for, and `UnavailableError` if it cannot be fetched.
        """
        if self.collateral is not None:
            return read_bundle(self.collateral, quote, pck_chain)
        source = self.require_source()
        if quote is None:
            raise MalformedError(
                "the quote cannot be read, so there is no platform to fetch collateral for",
                hint="look at it with tdx quote show",
            )
        return fetched(source, platform_of_quote(quote, pck_chain))


def fetched(source: Source, platform: PlatformId) -> Collateral:
    """The collateral of a platform, fetched with a display of the progress."""
    with progress_display() as display:
        return fetch_collateral(platform, source.client(display.report, display.note), source.evaluation)


def read_bundle(path: Path, quote: Quote | None, pck_chain: bytes | None = None) -> Collateral:
    """The collateral in a file; of one with many platforms, that for the platform of `quote`."""
    platform = load(lambda: platform_of_quote(quote, pck_chain)).value if quote else None
    return read_collateral(read_bounded(path, MAX_COLLATERAL), platform)


def _trust_anchor(path: Path) -> TrustAnchor:
    try:
        return TrustAnchor.from_certificate(read_bounded(path, MAX_CHAIN_SIZE))
    except MalformedError as error:
        raise MalformedError(
            f"{path} is no root certificate: {error.message}", hint="give one certificate, in PEM or DER"
        ) from error


def read_bounded(path: Path, size: int) -> bytes:
    """What is in a file, and of one that is too long just enough for its reader to notice."""
    with path.open("rb") as file:
        return file.read(size + 1)


_OPTIONS = (
    click.option(
        "--collateral",
        type=EXISTING_FILE,
        help="TCB info, QE identity and CRLs: tdx's, dcap-qvl's or Intel's PCS client tool's file.",
    ),
    click.option("--fetch", is_flag=True, help="Fetch the collateral; nothing is fetched without this."),
    click.option(
        "--at",
        callback=read_time,
        metavar="TIME",
        help="Verify as of this time (ISO 8601). [default: now]",
    ),
    click.option(
        "--policy",
        type=EXISTING_FILE,
        help="What to accept, in YAML. [default: strict, UpToDate alone]",
    ),
    click.option(
        "--trust-anchor",
        type=EXISTING_FILE,
        multiple=True,
        help="Root certificate to trust instead of Intel's; may be given again.",
    ),
    click.option(
        "--allow",
        type=click.Choice(["emulated"]),
        multiple=True,
        help="Accept what proves nothing about hardware.",
    ),
    click.option(
        "--forecast",
        type=EXISTING_FILE,
        help="Say also what the verdict would be with this collateral, such as Intel's early update.",
    ),
)
"""In the order in which the help shows them."""


def verification_options(command: Command) -> Command:
    """Add the options, and hand them to the command as `options`."""

    @source_options
    @functools.wraps(command)
    def wrapper(
        *,
        collateral: Path | None,
        fetch: bool,
        source: Source,
        at: datetime | None,
        policy: Path | None,
        trust_anchor: tuple[Path, ...],
        allow: tuple[str, ...],
        forecast: Path | None,
        **others: Any,
    ) -> Any:
        if fetch and collateral:
            raise UsageError("--collateral and --fetch contradict each other", hint="give one of them")
        if not fetch:
            _refuse_source_options()
        options = VerificationOptions(
            collateral,
            at,
            read_bounded(policy, MAX_POLICY) if policy else None,
            trust_anchor,
            allow,
            forecast,
            source if fetch else None,
        )
        return command(options=options, **others)

    decorated = cast(Command, wrapper)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _refuse_source_options() -> None:
    """Raise `UsageError` for an option about fetching where nothing is fetched."""
    context = click.get_current_context()
    for name in SOURCE_OPTIONS:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} says how to fetch, and nothing is fetched", hint="add --fetch")


def bound_key_of(path: Path | None) -> bytes | None:
    """The SSH public key in a file as its wire blob."""
    return host_key_blob(path.read_bytes()) if path else None
