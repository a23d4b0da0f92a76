"""What collateral says: its items, until when each holds, and the TCB levels. Nothing is verified here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.platform_id import Subject, subject_of
from tdxstack.verification.certificates import Chain, read_chain
from tdxstack.verification.chains import RevocationList
from tdxstack.verification.inputs import Loaded, ParsedCollateral, load
from tdxstack.verification.qe_identity import QeIdentity
from tdxstack.verification.tcb_info import IsvLevel, TcbInfo, TcbLevel


class ItemState(StrEnum):
    """Whether an item holds at a time, by its own dates."""

    CURRENT = "current"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Item:
    """One of the seven items: its issuer, from when until when it holds, or the `problem` of reading it."""

    name: str
    issuer: str = ""
    start: datetime | None = None
    end: datetime | None = None
    revoked: int | None = None
    problem: str = ""

    def state(self, time: datetime) -> ItemState:
        """The state at `time`. A list without an end is past it, as verification has it."""
        if self.start is None:
            return ItemState.UNREADABLE
        if time < self.start:
            return ItemState.NOT_YET_VALID
        return ItemState.CURRENT if self.end is not None and time <= self.end else ItemState.EXPIRED

    def to_json(self, time: datetime) -> dict[str, Any]:
        """By name; times in ISO 8601."""
        return {
            "item": self.name,
            "state": self.state(time).value,
            "issuer": self.issuer,
            "issued": self.start.isoformat() if self.start else None,
            "next_update": self.end.isoformat() if self.end else None,
            "revoked": self.revoked,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Contents:
    """What one collateral holds, item by item; what cannot be read is None."""

    subject: Subject | None
    items: tuple[Item, ...]
    tcb_info: TcbInfo | None
    qe_identity: QeIdentity | None
    emulated: bool

    @classmethod
    def of(cls, collateral: Collateral) -> Contents:
        """Read everything that can be read."""
        parsed = ParsedCollateral.parse(collateral)
        pck_chain = load(lambda: read_chain(collateral.pck_crl_issuer_chain))
        chains = (pck_chain, parsed.tcb_info_chain, parsed.qe_identity_chain)
        return cls(
            subject=load(lambda: subject_of(collateral)).value,
            items=(
                _document("tcb_info", parsed.tcb_info, parsed.tcb_info_chain),
                _document("qe_identity", parsed.qe_identity, parsed.qe_identity_chain),
                _crl("pck_crl", parsed.pck_crl),
                _crl("root_ca_crl", parsed.root_ca_crl),
                _chain("pck_crl_issuer_chain", pck_chain),
                _chain("tcb_info_issuer_chain", parsed.tcb_info_chain),
                _chain("qe_identity_issuer_chain", parsed.qe_identity_chain),
            ),
            tcb_info=parsed.tcb_info.value,
            qe_identity=parsed.qe_identity.value,
            emulated=any(certificate.is_emulated for chain in chains for certificate in chain.value or ()),
        )

    def state(self, time: datetime) -> ItemState:
        """The worst state of an item at `time`."""
        order = list(ItemState)
        return max((item.state(time) for item in self.items), key=order.index)

    @property
    def end(self) -> datetime | None:
        """When the first item ends to hold; None if that is not known of each."""
        ends = [item.end for item in self.items]
        return None if None in ends else min(end for end in ends if end is not None)

    def to_json(self, time: datetime) -> dict[str, Any]:
        """The document that `tdx collateral show --json` has for each collateral (docs/reference/json.md)."""
        info, identity = self.tcb_info, self.qe_identity
        platform = self.subject.platform if self.subject else None
        return {
            "tee": platform.tee if platform else None,
            "fmspc": platform.fmspc.hex() if platform else None,
            "ca": platform.ca if platform else None,
            "evaluation_number": self.subject.evaluation_number if self.subject else None,
            "emulated": self.emulated,
            "state": self.state(time).value,
            "items": [item.to_json(time) for item in self.items],
            "tcb_levels": [_tcb_level(level) for level in info.levels] if info else None,
            "tdx_modules": [
                {"id": module.id, "mrsigner": module.mrsigner.hex(), "levels": _isv_levels(module.levels)}
                for module in info.module_identities
            ]
            if info
            else None,
            "qe_identity": {
                "id": identity.id,
                "evaluation_number": identity.evaluation_number,
                "mrsigner": identity.mrsigner.hex(),
                "isv_prod_id": identity.isv_prod_id,
                "levels": _isv_levels(identity.levels),
            }
            if identity
            else None,
        }


def _document(name: str, document: Loaded[TcbInfo] | Loaded[QeIdentity], signer: Loaded[Chain]) -> Item:
    value = document.value
    if value is None:
        return Item(name, problem=document.problem)
    issuer = signer.value[0].name if signer.value else ""
    return Item(name, issuer, value.issue_date, value.next_update)


def _crl(name: str, crl: Loaded[RevocationList]) -> Item:
    if crl.value is None:
        return Item(name, problem=crl.problem)
    value = crl.value
    return Item(name, value.issuer_name, value.start, value.end, revoked=len(value.library))


def _chain(name: str, chain: Loaded[Chain]) -> Item:
    if chain.value is None:
        return Item(name, problem=chain.problem)
    start = max(certificate.start for certificate in chain.value)
    end = min(certificate.end for certificate in chain.value)
    return Item(name, chain.value[-1].name, start, end)


def _tcb_level(level: TcbLevel) -> dict[str, Any]:
    return {
        "status": level.status.value,
        "date": level.date.isoformat(),
        "advisory_ids": list(level.advisories),
        "sgx_components": list(level.sgx_svns),
        "pcesvn": level.pcesvn,
        "tdx_components": list(level.tdx_svns),
    }


def _isv_levels(levels: Sequence[IsvLevel]) -> list[dict[str, Any]]:
    return [
        {
            "isvsvn": level.isvsvn,
            "status": level.status.value,
            "date": level.date.isoformat(),
            "advisory_ids": list(level.advisories),
        }
        for level in levels
    ]
