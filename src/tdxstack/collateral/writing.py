"""Collateral files in tdxstack's own form, dcap-qvl's, and that of Intel's PCS client tool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from tdxstack.collateral import intel_tool
from tdxstack.collateral.bundle import SET_FORMAT, Collateral
from tdxstack.errors import UsageError

OWN: Final = "own"
DCAP_QVL: Final = "dcap-qvl"
INTEL: Final = "intel"
FORMS: Final = (OWN, DCAP_QVL, INTEL)


def write_collateral(entries: Sequence[Collateral], form: str = OWN) -> bytes:
    """A file in one of `FORMS`.

    Raises `UsageError` where the form has no room for `entries`, `MalformedError` for items that it cannot
    hold.
    """
    if not entries:
        raise UsageError("there is no collateral to write", hint="name a platform that the files have")
    if form == INTEL:
        return intel_tool.write(entries)
    if form == OWN:
        documents = [collateral.to_document() for collateral in entries]
        document = documents[0] if len(documents) == 1 else {"format": SET_FORMAT, "collateral": documents}
        return json.dumps(document, indent=2).encode() + b"\n"
    if len(entries) > 1:
        raise UsageError(
            f"dcap-qvl's form holds one platform, not {len(entries)}",
            hint="choose one: --fmspc, --ca, --evaluation",
        )
    return entries[0].to_dcap_qvl_json()
