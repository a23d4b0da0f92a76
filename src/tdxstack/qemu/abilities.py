"""What one QEMU binary has and lets be said of TDs, asked of the binary itself through QMP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tdxstack.qemu import probe
from tdxstack.qemu.capabilities import CONFIDENTIAL_GUEST_RESET
from tdxstack.run import converse

SECONDS = 30.0

_QUESTIONS = ({"execute": "qom-list-types"}, {"execute": "query-qmp-schema"})
_RETURN = '{"return":'
_TD_TYPES = ("tdx-guest", "tdx-tcg-guest")


@dataclass(frozen=True, slots=True)
class TdObject:
    """An object type that makes a machine a TD: its properties and what QEMU says of it besides."""

    properties: frozenset[str]
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a QEMU can do."""

    version: str
    types: frozenset[str]
    """Everything that it can make: devices, objects, machines (`pc-q35-10.1-machine`), accelerators."""
    td_objects: Mapping[str, TdObject]
    """`tdx-guest` and `tdx-tcg-guest`, those there are."""

    @property
    def td_can_reset(self) -> bool:
        """Whether a TD on KVM can be reset; else it ends."""
        td = self.td_objects.get("tdx-guest")
        return td is not None and CONFIDENTIAL_GUEST_RESET in td.features


def ask(qemu: Sequence[str]) -> Abilities:
    """Start `qemu` without a machine and ask it.

    Raises `UnavailableError` where it is missing, `CommandError` where it does not answer as QEMU does.
    """
    argv, questions = probe.command(qemu, _QUESTIONS)
    *asked, _ = questions.decode().splitlines()
    # One by one, and not told to quit: a QEMU that ends drops what its reader has not taken yet.
    with converse(argv, timeout=SECONDS) as conversation:
        answers = [f"{_RETURN} {conversation.ask(question, _RETURN)}" for question in asked]
    return parse(qemu[0], "\n".join(answers).encode())


def parse(name: str, output: bytes) -> Abilities:
    """What the binary has answered; `CommandError` where that is not what QEMU answers."""
    try:
        version, (types, schema, *_) = probe.answers(output)
        return Abilities(
            version,
            frozenset(kind["name"] for kind in types),
            _td_objects({entity["name"]: entity for entity in schema}),
        )
    except (ValueError, KeyError, TypeError):
        raise probe.no_qemu(name, output) from None


def _td_objects(schema: Mapping[str, Any]) -> dict[str, TdObject]:
    """What may be said of TDs in `object-add` (QEMU docs/devel/qapi-code-gen.rst)."""
    variants = schema[schema["object-add"]["arg-type"]]["variants"]
    return {
        variant["case"]: TdObject(
            frozenset(member["name"] for member in schema[variant["type"]]["members"]),
            frozenset(schema[variant["type"]].get("features", ())),
        )
        for variant in variants
        if variant["case"] in _TD_TYPES
    }
