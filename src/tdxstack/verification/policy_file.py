"""Policies as people write them: YAML, read strictly. docs/reference/policy.md describes every key.

What a policy says holds for the policies in its `all_of` and `any_of` too; those can only demand more. What
is said nowhere on the way to a policy is the strict default of `Policy`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from tdxstack import yaml_text
from tdxstack.abi.tdreport import TD_ATTRIBUTE_NAMES
from tdxstack.errors import MalformedError
from tdxstack.evidence.binding import NONCE_SIZE, host_key_blob
from tdxstack.verification.policy import PCK_CAS, AllOf, AnyOf, AnyPolicy, Policy
from tdxstack.verification.tcb_info import TcbStatus

MAX_DEPTH: Final = 16
"""Policies within policies."""

_HINT = "docs/reference/policy.md describes every key"
_NO_SERVICE_TD = bytes(48)
_NEVER_ACCEPTED = (TcbStatus.REVOKED, TcbStatus.NOT_SUPPORTED)
_ATTRIBUTE_BITS = {name: 1 << bit for bit, name in TD_ATTRIBUTE_NAMES.items() if name != "DEBUG"}
_DURATION = re.compile(r"(\d{1,6}) ?(days?|hours?|d|h)")


def parse_policy(text: bytes) -> AnyPolicy:
    """Read a policy in YAML. Raises `MalformedError` that lists everything that is wrong, with its place."""
    document = yaml_text.load(text, "policy", hint=_HINT)
    try:
        return _policy(_Node.model_validate(document), {}, "policy", 0)
    except ValidationError as error:
        raise yaml_text.invalid(error, "policy", hint=_HINT, text=text) from None
    except RecursionError:
        raise MalformedError("policy: nested too deeply", hint=_HINT) from None


def _listed(value: object) -> object:
    """One value stands for a list of it."""
    return [value] if isinstance(value, str) else value


def _octets(size: int) -> Callable[[object], bytes]:
    def read(value: object) -> bytes:
        try:
            octets = bytes.fromhex(value) if isinstance(value, str) else b""
        except ValueError:
            raise ValueError(f"{str(value)[:100]!r} is not hexadecimal") from None
        if len(octets) != size:
            raise ValueError(f"{str(value)[:100]!r} is not {size} bytes in hexadecimal")
        return octets

    return read


def _service_td(value: object) -> bytes:
    return _NO_SERVICE_TD if value == "none" else _octets(48)(value)


def read_duration(value: object) -> timedelta:
    """A time such as "30 days" or "12h". Raises `ValueError` for anything else."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{str(value)[:40]!r} is no duration such as '30 days' or '12 hours'")
    number = int(match[1])
    return timedelta(days=number) if match[2].startswith("d") else timedelta(hours=number)


def _bound_key(value: object) -> bytes:
    try:
        return host_key_blob(str(value).encode())
    except MalformedError as error:
        raise ValueError(error.message) from None


Octets6 = Annotated[bytes, BeforeValidator(_octets(6))]
Octets32 = Annotated[bytes, BeforeValidator(_octets(32))]
Octets48 = Annotated[bytes, BeforeValidator(_octets(48))]
Octets64 = Annotated[bytes, BeforeValidator(_octets(64))]
Some32 = Annotated[list[Octets32] | None, BeforeValidator(_listed), Field(min_length=1)]
Some48 = Annotated[list[Octets48] | None, BeforeValidator(_listed), Field(min_length=1)]
Some64 = Annotated[list[Octets64] | None, BeforeValidator(_listed), Field(min_length=1)]
Advisory = Annotated[str, Field(pattern=r"^INTEL-SA-\d{5}$")]
Duration = Annotated[timedelta, BeforeValidator(read_duration)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Registers(_Strict):
    mrtd: Some48 = None
    rtmr0: Some48 = None
    rtmr1: Some48 = None
    rtmr2: Some48 = None
    rtmr3: Some48 = None
    mrconfigid: Some48 = None
    mrowner: Some48 = None
    mrownerconfig: Some48 = None
    mrseam: Some48 = None
    mrsignerseam: Some48 = None
    report_data: Some64 = None
    mrenclave: Some32 = None
    mrsigner: Some32 = None


class _Advisories(_Strict):
    allowed: list[Advisory] | None = None
    denied: list[Advisory] | None = None


class _Node(_Strict):
    name: str = ""
    tcb_status: Annotated[list[TcbStatus] | None, BeforeValidator(_listed), Field(min_length=1)] = None
    advisories: _Advisories = _Advisories()
    minimum_tcb_evaluation: Annotated[int, Field(ge=0)] | None = None
    collateral_grace: Duration | None = None
    platform_grace: Duration | None = None
    fmspc: Annotated[list[Octets6] | None, BeforeValidator(_listed), Field(min_length=1)] = None
    pck_ca: Annotated[list[str] | None, BeforeValidator(_listed), Field(min_length=1)] = None
    debug: bool | None = None
    attributes: dict[str, bool] = {}
    service_td: Annotated[
        list[Annotated[bytes, BeforeValidator(_service_td)]] | None,
        BeforeValidator(_listed),
        Field(min_length=1),
    ] = None
    registers: _Registers = _Registers()
    nonce: Annotated[bytes, BeforeValidator(_octets(NONCE_SIZE))] | None = None
    bound_key: Annotated[bytes, BeforeValidator(_bound_key)] | None = None
    all_of: list[_Node] | None = None
    any_of: list[_Node] | None = None

    @field_validator("tcb_status")
    @classmethod
    def _acceptable(cls, statuses: list[TcbStatus]) -> list[TcbStatus]:
        for status in statuses:
            if status in _NEVER_ACCEPTED:
                raise ValueError(f"no policy accepts {status.value}")
        return statuses

    @field_validator("pck_ca")
    @classmethod
    def _known(cls, authorities: list[str]) -> list[str]:
        for authority in authorities:
            if authority not in PCK_CAS:
                raise ValueError(f"{authority[:40]!r} is not one of {', '.join(PCK_CAS)}")
        return authorities

    @field_validator("attributes")
    @classmethod
    def _named(cls, attributes: dict[str, bool]) -> dict[str, bool]:
        for name in attributes:
            if name == "DEBUG":
                raise ValueError("say `debug` beside `attributes`, not DEBUG in it")
            if name not in _ATTRIBUTE_BITS:
                raise ValueError(f"{name[:40]!r} is not one of {', '.join(_ATTRIBUTE_BITS)}")
        return attributes

    def demands(self) -> dict[str, Any]:
        """What is said here, as arguments of `Policy`."""
        demands = {
            "accepted_tcb_statuses": _set(self.tcb_status),
            "allowed_advisories": _set(self.advisories.allowed),
            "denied_advisories": _set(self.advisories.denied),
            "minimum_evaluation_number": self.minimum_tcb_evaluation,
            "collateral_grace": self.collateral_grace,
            "platform_grace": self.platform_grace,
            "fmspcs": _set(self.fmspc),
            "pck_cas": _set(self.pck_ca),
            "allow_debug": self.debug,
            "required_attributes": self._bits(True),
            "forbidden_attributes": self._bits(False),
            "service_tds": _set(self.service_td),
            "nonce": self.nonce,
            "bound_key": self.bound_key,
            "expected": {
                name: tuple(dict.fromkeys(values))
                for name in _Registers.model_fields
                if (values := getattr(self.registers, name))
            },
        }
        return {name: value for name, value in demands.items() if value is not None}

    def _bits(self, wanted: bool) -> int:
        return sum(_ATTRIBUTE_BITS[name] for name, value in self.attributes.items() if value is wanted)


def _policy(node: _Node, around: dict[str, Any], place: str, depth: int) -> AnyPolicy:
    """The policy of `node`, on which `around` is demanded as well."""
    if depth > MAX_DEPTH:
        raise MalformedError(f"{place}: policies are nested more than {MAX_DEPTH} deep", hint=_HINT)
    demands = _both(around, node.demands(), place)
    combinations: list[AnyPolicy] = []
    for kind, key, members in ((AllOf, "all_of", node.all_of), (AnyOf, "any_of", node.any_of)):
        if members is not None:
            combinations.append(
                kind(
                    tuple(
                        _policy(member, demands, f"{place}.{key}[{number}]", depth + 1)
                        for number, member in enumerate(members)
                    ),
                    node.name,
                )
            )
    if not combinations:
        return Policy(name=node.name, **demands)
    return combinations[0] if len(combinations) == 1 else AllOf(tuple(combinations), node.name)


def _both(outer: dict[str, Any], inner: dict[str, Any], place: str) -> dict[str, Any]:
    """What `outer` and `inner` demand together. Raises `MalformedError` if nothing could satisfy both."""
    both = {**outer, **inner}
    for name in outer.keys() & inner.keys():
        both[name] = _TOGETHER[name](outer[name], inner[name])
    expected = both.get("expected", {})
    contradictions = [name for name in _ONE_OF_MANY if both.get(name) == frozenset()]
    contradictions += [f"registers.{name}" for name, values in expected.items() if not values]
    contradictions += [name for name in ("nonce", "bound_key") if both.get(name) is _NOTHING]
    if both.get("required_attributes", 0) & both.get("forbidden_attributes", 0):
        contradictions.append("attributes")
    if contradictions:
        keys = ", ".join(_ONE_OF_MANY.get(name, name) for name in contradictions)
        raise MalformedError(
            f"policy: {place}: nothing can satisfy this {keys} and the one around it",
            hint="a policy in all_of or any_of can only demand more than the one around it",
        )
    return both


_ONE_OF_MANY = {
    "accepted_tcb_statuses": "tcb_status",
    "fmspcs": "fmspc",
    "pck_cas": "pck_ca",
    "service_tds": "service_td",
}
_NOTHING: Final = object()


def _intersection(one: frozenset[Any], other: frozenset[Any]) -> frozenset[Any]:
    return one & other


def _union(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    return one | other


def _bits_of_either(one: int, other: int) -> int:
    return one | other


def _equal(one: bytes, other: bytes) -> object:
    return one if one == other else _NOTHING


def _registers(
    one: dict[str, tuple[bytes, ...]], other: dict[str, tuple[bytes, ...]]
) -> dict[str, tuple[bytes, ...]]:
    both = {**one, **other}
    for name in one.keys() & other.keys():
        both[name] = tuple(value for value in one[name] if value in other[name])
    return both


_TOGETHER: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "accepted_tcb_statuses": _intersection,
    "allowed_advisories": _intersection,
    "denied_advisories": _union,
    "minimum_evaluation_number": max,
    "collateral_grace": min,
    "platform_grace": min,
    "fmspcs": _intersection,
    "pck_cas": _intersection,
    "allow_debug": min,
    "required_attributes": _bits_of_either,
    "forbidden_attributes": _bits_of_either,
    "service_tds": _intersection,
    "nonce": _equal,
    "bound_key": _equal,
    "expected": _registers,
}


def _set(values: list[Any] | None) -> frozenset[Any] | None:
    return None if values is None else frozenset(values)
