"""Where the collateral for a machine's quote comes from. For which platform, only the quote says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tdxstack.abi.quote import Quote
from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.fetch import Client, fetch_collateral
from tdxstack.collateral.reading import read_all, read_collateral
from tdxstack.errors import UnavailableError
from tdxstack.verification.inputs import load
from tdxstack.verification.quoted_platform import platform_of_quote

CollateralFor = Callable[[bytes], Collateral]
"""Gives the collateral for a quote."""


def collateral_of_file(path: Path) -> CollateralFor:
    """From a file of any form, which is read and understood at once.

    Raises `UnavailableError` if it cannot be read, `MalformedError` if it is no collateral.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnavailableError(
            f"collateral {path} cannot be read: {error.strerror}", hint="give --collateral a bundle"
        ) from None
    read_all(data)

    def collateral_for(quote: bytes) -> Collateral:
        # A quote that cannot be read is for verification to reject.
        return read_collateral(data, load(lambda: platform_of_quote(Quote.parse(quote))).value)

    return collateral_for


def collateral_of_service(client: Client) -> CollateralFor:
    """From a PCS or PCCS, once the quote is there."""
    return lambda quote: fetch_collateral(platform_of_quote(Quote.parse(quote)), client)
