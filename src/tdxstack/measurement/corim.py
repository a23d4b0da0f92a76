"""Reference values as a CoRIM: the form in which other verifiers take them.

Source: draft-ietf-rats-corim-10 (sections 4 and 5). The result is a tagged unsigned CoRIM with one CoMID. Its
environment is a class by vendor and model; MRTD and MRSEAM are measurements of that key, the RTMRs are
integrity registers. Digests are SHA-384, number 7 of IANA's Named Information Hash Algorithm Registry.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Final

import cbor2

from tdxstack.errors import UsageError
from tdxstack.measurement.reference import Reference

SHA384: Final = 7
TAG_CORIM, TAG_COMID = 501, 506
VENDOR, MODEL = "Intel", "TDX Trust Domain"
IDENTITY_DIGITS: Final = 32

_CORIM_ID, _CORIM_TAGS = 0, 1
_COMID_IDENTITY, _COMID_TRIPLES = 1, 4
_TAG_ID, _TAG_VERSION = 0, 1
_REFERENCE_TRIPLES: Final = 0
_CLASS: Final = 0
_CLASS_VENDOR, _CLASS_MODEL = 1, 2
_MEASUREMENT_KEY, _MEASUREMENT_VALUES = 0, 1
_DIGESTS, _INTEGRITY_REGISTERS = 2, 14


def to_corim(reference: Reference) -> bytes:
    """The CBOR of `reference`, in deterministic encoding.

    Manifest and tag are identified by its name and a digest of its values, so that others are told apart.
    A register with several values gives a reference triple for each combination, as the values of one triple
    must hold together. Raises `UsageError` where events are pinned, which a CoRIM has no words for, or no
    register is.
    """
    if reference.events:
        raise UsageError(
            f"CoRIM cannot pin single events, as these reference values do for {', '.join(reference.events)}",
            hint="write a CoRIM of values that are all known, without --portable",
        )
    if not reference.registers:
        raise UsageError("there is no register to write a CoRIM of", hint="give reference values of some")
    environment = {_CLASS: {_CLASS_VENDOR: VENDOR, _CLASS_MODEL: MODEL}}
    names = sorted(reference.registers)
    triples = [
        [environment, _measurements(dict(zip(names, values, strict=True)))]
        for values in itertools.product(*(reference.registers[name] for name in names))
    ]
    digest = hashlib.sha256(cbor2.dumps(triples, canonical=True)).hexdigest()
    identity = f"{reference.name}/{digest[:IDENTITY_DIGITS]}"
    comid = {
        _COMID_IDENTITY: {_TAG_ID: identity, _TAG_VERSION: 0},
        _COMID_TRIPLES: {_REFERENCE_TRIPLES: triples},
    }
    tag = cbor2.CBORTag(TAG_COMID, cbor2.dumps(comid, canonical=True))
    manifest = {_CORIM_ID: identity, _CORIM_TAGS: [tag]}
    return cbor2.dumps(cbor2.CBORTag(TAG_CORIM, manifest), canonical=True)


def _measurements(values: dict[str, bytes]) -> list[dict[int, object]]:
    found: list[dict[int, object]] = []
    for name in ("mrseam", "mrtd"):
        if name in values:
            digests = [[SHA384, values.pop(name)]]
            found.append({_MEASUREMENT_KEY: name, _MEASUREMENT_VALUES: {_DIGESTS: digests}})
    if values:
        registers = {name: [[SHA384, value]] for name, value in values.items()}
        found.append({_MEASUREMENT_KEY: "rtmr", _MEASUREMENT_VALUES: {_INTEGRITY_REGISTERS: registers}})
    return found
