"""Collateral files of every form, for one platform or many; recognised by what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from tdxstack.collateral import intel_tool
from tdxstack.collateral.bundle import SET_FORMAT, TCB_INFO, Collateral
from tdxstack.collateral.json_text import refuse_crowds
from tdxstack.collateral.platform_id import PlatformId, Subject, issued_at, subjects_of
from tdxstack.errors import MalformedError, UsageError

MAX_SIZE: Final = 16 << 20
"""Bytes of a file; one with all of Intel's platforms has about two million."""

_HINT = "expected a bundle of tdxstack, dcap-qvl's QuoteCollateralV3 or Intel's PCS client tool"


def read_collateral(
    data: bytes, platform: PlatformId | None = None, evaluation_number: int | None = None
) -> Collateral:
    """The collateral in a file of any known form: the only one, or the first for `platform`.

    With `evaluation_number` it must be of that TCB evaluation; without, what comes first in the file is
    taken, which is the standard update in files of Intel's tool. A file with one collateral is not asked
    what it is for: verification compares that. Raises `MalformedError`, and `UsageError` where nothing fits.
    """
    everything = read_all(data)
    if len(everything) == 1 and evaluation_number is None:
        return everything[0]
    subjects = subjects_of(everything)
    platforms = {subject.platform for subject in subjects}
    if platform is None and len(platforms) > 1:
        raise UsageError(
            f"the collateral is for {len(platforms)} platforms", hint=f"name one of: {_listing(subjects)}"
        )
    for subject, collateral in zip(subjects, everything, strict=True):
        if platform in (None, subject.platform) and evaluation_number in (None, subject.evaluation_number):
            return collateral
    wanted = str(platform) if platform else "its platform"
    if evaluation_number is not None:
        wanted += f", TCB evaluation {evaluation_number}"
    raise UsageError(f"the collateral has nothing for {wanted}", hint=f"it has: {_listing(subjects)}")


def read_all(data: bytes) -> tuple[Collateral, ...]:
    """Everything in a file of any known form, in its order. Raises `MalformedError`."""
    document = _load(data)
    if "collaterals" in document:
        return intel_tool.read(document)
    if document.get("format") != SET_FORMAT:
        return (Collateral.from_document(document),)
    members = document.get("collateral")
    if not isinstance(members, list) or not members or not all(isinstance(one, dict) for one in members):
        raise MalformedError("collateral: the set is not a list of bundles", hint=_HINT)
    return tuple(Collateral.from_document(member) for member in members)


def newest_of_each(collaterals: Iterable[Collateral]) -> tuple[Collateral, ...]:
    """One collateral for each platform and TCB evaluation: of several that with the newest TCB info.

    They come in the order in which the platforms come first. Raises `MalformedError`.
    """
    everything = tuple(collaterals)
    newest: dict[Subject, Collateral] = {}
    for subject, collateral in zip(subjects_of(everything), everything, strict=True):
        known = newest.setdefault(subject, collateral)
        if issued_at(collateral.tcb_info, TCB_INFO) > issued_at(known.tcb_info, TCB_INFO):
            newest[subject] = collateral
    return tuple(newest.values())


def _load(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_SIZE:
        raise MalformedError(f"collateral has {len(data)} bytes, at most {MAX_SIZE} are read", hint=_HINT)
    try:
        text = data.decode("utf-8-sig")
        refuse_crowds(text, "collateral", _HINT)
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"collateral is not JSON: {error}", hint=_HINT) from error
    if not isinstance(document, dict):
        raise MalformedError(f"collateral is a JSON {type(document).__name__}", hint=_HINT)
    return document


def _listing(subjects: Iterable[Subject]) -> str:
    names = list(dict.fromkeys(str(subject) for subject in subjects))
    return "; ".join(names[:8]) + (f"; and {len(names) - 8} more" if len(names) > 8 else "")
