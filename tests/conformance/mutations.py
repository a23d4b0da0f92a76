"""Seeded changes of a quote, its collateral and the time: what an attacker could send, without the keys."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from tdxstack.abi.quote import CERTIFICATION_PCK_CHAIN, CertificationData, Quote, QuoteSignature
from tdxstack.collateral.bundle import Collateral
from tdxstack.errors import MalformedError
from tdxstack.verification.inputs import ParsedCollateral

CERTIFICATE_END = b"-----END CERTIFICATE-----\n"
_HEADER_SIZE = 48
_ITEMS = tuple(field.name for field in fields(Collateral))
_MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Case:
    """What two verifiers are asked; `change` names what was done to `base` (None: nothing)."""

    quote: bytes
    collateral: Collateral
    time: datetime
    change: str = "none"
    base: Case | None = None


Change = Callable[[Case, random.Random, Sequence[Case]], Case]


def mutations(base: Case, others: Sequence[Case], count: int, seed: str) -> list[Case]:
    """`count` changed cases, the same for the same seed; the first ones of a longer list."""
    chance = random.Random(seed)
    cases: list[Case] = []
    while len(cases) < count:
        (change,) = chance.choices(CHANGES, WEIGHTS)
        changed = change(base, chance, others)
        cases.append(replace(changed, change=change.__name__.strip("_"), base=base))
    return cases


def _bit(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    return replace(case, quote=_flip(case.quote, chance))


def _words(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    data = bytearray(case.quote)
    at = chance.randrange(len(data))
    data[at : at + 4] = chance.choice([bytes(4), b"\xff" * 4, chance.randbytes(4)])
    return replace(case, quote=bytes(data))


def _cut(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    return replace(case, quote=case.quote[: chance.randrange(len(case.quote))])


def _longer(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    more = chance.choice([bytes(chance.randrange(1, 4000)), chance.randbytes(7), case.quote])
    return replace(case, quote=case.quote + more)


def _number(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """A type, a size or a version that is one off, zero or huge."""
    offset, size = chance.choice(_numbers(case.quote))
    value = int.from_bytes(case.quote[offset : offset + size], "little")
    limit = 1 << 8 * size
    new = chance.choice([value + 1, value - 1, 0, limit - 1, value ^ 1 << chance.randrange(8 * size)])
    data = bytearray(case.quote)
    data[offset : offset + size] = (new % limit).to_bytes(size, "little")
    return replace(case, quote=bytes(data))


def _body_field(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """A field of header or body, which the signature covers."""
    quote = Quote.parse(case.quote)
    part = chance.choice(["header", "body"])
    structure = getattr(quote, part)
    name = chance.choice([field.name for field in fields(structure)])
    value = getattr(structure, name)
    new = _flip(value, chance) if isinstance(value, bytes) else value ^ 1 << chance.randrange(8)
    return replace(case, quote=replace(quote, **{part: replace(structure, **{name: new})}).to_bytes())


def _spliced(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """A part of another quote in place of this one's."""
    quote, other = Quote.parse(case.quote), Quote.parse(chance.choice(others).quote)
    if quote.header.version != other.header.version or type(quote.body) is not type(other.body):
        return replace(case, quote=case.quote[:_HEADER_SIZE] + other.to_bytes()[_HEADER_SIZE:])
    if chance.random() < 0.3:
        part = chance.choice(["header", "body"])
        return replace(case, quote=replace(quote, **{part: getattr(other, part)}).to_bytes())
    parts = [field.name for field in fields(QuoteSignature)]
    chosen = chance.sample(parts, chance.randrange(1, len(parts)))
    taken: dict[str, Any] = {name: getattr(other.signature, name) for name in chosen}
    signature = replace(quote.signature, **taken)
    return replace(case, quote=replace(quote, signature=signature).to_bytes())


def _signature(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """A signature that is zero, at the limit, or the other solution of the same equation."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    quote = Quote.parse(case.quote)
    name = chance.choice(["signature", "qe_report_signature"])
    raw = getattr(quote.signature, name)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    new_r, new_s = chance.choice([(0, s), (r, 0), (r, order - s), (order, s), (r, order), (s, r), (0, 0)])
    changed: dict[str, Any] = {name: new_r.to_bytes(32, "big") + new_s.to_bytes(32, "big")}
    return replace(case, quote=replace(quote, signature=replace(quote.signature, **changed)).to_bytes())


def _chain(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """The PCK chain: reordered, shortened, repeated, mixed with others, written otherwise."""
    quote = Quote.parse(case.quote)
    pem = _edited_chain(quote.signature.certification.data, chance, others)
    certification = CertificationData(CERTIFICATION_PCK_CHAIN, pem)
    signature = replace(quote.signature, certification=certification)
    return replace(case, quote=replace(quote, signature=signature).to_bytes())


def _edited_chain(pem: bytes, chance: random.Random, others: Sequence[Case]) -> bytes:
    certificates = [part + CERTIFICATE_END for part in pem.split(CERTIFICATE_END)[:-1]]
    if len(certificates) < 2:
        return _flip(pem, chance)
    kind = chance.randrange(8)
    if kind == 0:
        chance.shuffle(certificates)
    elif kind == 1:
        del certificates[chance.randrange(len(certificates))]
    elif kind == 2:
        certificates.insert(chance.randrange(4), chance.choice(certificates))
    elif kind == 3:
        other = Quote.parse(chance.choice(others).quote).signature.certification.data
        foreign = [part + CERTIFICATE_END for part in other.split(CERTIFICATE_END)[:-1]]
        if foreign:
            certificates[chance.randrange(len(certificates))] = chance.choice(foreign)
    elif kind == 4:
        certificates.insert(chance.randrange(4), b"comment\n")
    elif kind == 5:
        return pem.replace(b"\n", b"\r\n")
    elif kind == 6:
        return pem.rstrip(b"\0") + bytes(chance.randrange(9))
    else:
        return _flip(pem, chance)
    return b"".join(certificates)


def _kind(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """Other certification data, of each type, with contents and without."""
    quote = Quote.parse(case.quote)
    data = chance.choice([b"", bytes(36), bytes(404), quote.signature.certification.data])
    certification = CertificationData(chance.randrange(9), data)
    signature = replace(quote.signature, certification=certification)
    return replace(case, quote=replace(quote, signature=signature).to_bytes())


def _item(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """One item of the collateral, changed in a bit."""
    name = chance.choice(_ITEMS)
    changed = _flip(getattr(case.collateral, name), chance)
    return replace(case, collateral=replace(case.collateral, **{name: changed}))


def _other_item(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """One item of other collateral, or in the place of another item."""
    source = chance.choice([chance.choice(others).collateral, case.collateral])
    name = chance.choice(_ITEMS)
    taken = getattr(source, name if source is not case.collateral else chance.choice(_ITEMS))
    return replace(case, collateral=replace(case.collateral, **{name: taken}))


def _instant(case: Case, chance: random.Random, others: Sequence[Case]) -> Case:
    """Another time: about a limit of an item of the collateral, or months away."""
    limits = limits_of(case.collateral)
    near = chance.choice(limits) + timedelta(seconds=chance.choice([-1, 0, 1]))
    far = case.time + chance.choice([-24, -1, 1, 24]) * _MONTH
    return replace(case, time=chance.choice([near, near, far]))


def limits_of(collateral: Collateral) -> list[datetime]:
    """When items of the collateral begin and end to be current."""
    parsed = ParsedCollateral.parse(collateral)
    found: list[datetime | None] = []
    for document in (parsed.tcb_info.value, parsed.qe_identity.value):
        found += [document.issue_date, document.next_update] if document else []
    for crl in (parsed.root_ca_crl.value, parsed.pck_crl.value):
        found += [crl.start, crl.end] if crl else []
    return [limit for limit in found if limit is not None]


CHANGES: tuple[Change, ...] = (
    _bit,
    _words,
    _cut,
    _longer,
    _number,
    _body_field,
    _spliced,
    _signature,
    _chain,
    _kind,
    _item,
    _other_item,
    _instant,
)
WEIGHTS = (20, 10, 5, 3, 10, 8, 10, 6, 10, 4, 6, 5, 3)


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return b"\0"
    changed = bytearray(data)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _numbers(data: bytes) -> list[tuple[int, int]]:
    """Offset and size of the versions, types and sizes in a quote."""
    found = [(0, 2), (2, 2), (4, 4)]
    try:
        quote = Quote.parse(data)
    except MalformedError:
        return found
    if quote.header.version >= 5:
        found += [(_HEADER_SIZE, 2), (_HEADER_SIZE + 2, 4)]
    section = len(quote.signed_bytes)
    found.append((section, 4))
    inner = section + 4 + 128
    if quote.header.version >= 4:
        found += [(inner, 2), (inner + 2, 4)]
        inner += 6
    auth = inner + 384 + 64
    certification = auth + 2 + len(quote.signature.qe_auth_data)
    return [*found, (auth, 2), (certification, 2), (certification + 2, 4)]
