"""The comparison of two sides: registers, events, differences and their causes."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.measurement.comparison.alignment import Kind, Pair, align, find_moves
from tdxstack.measurement.comparison.cause import Cause
from tdxstack.measurement.comparison.causes import explain
from tdxstack.measurement.comparison.side import REGISTERS, Side
from tdxstack.measurement.comparison.values import ValueChange, changed_values


@dataclass(frozen=True, slots=True)
class Register:
    """One register on both sides; None where a side does not have it."""

    name: str
    a: bytes | None
    b: bytes | None

    @property
    def equal(self) -> bool | None:
        """Whether both are the same; None where one is not known."""
        return None if self.a is None or self.b is None else self.a == self.b


@dataclass(frozen=True, slots=True)
class Difference:
    """An event that is not the same in both logs; `number` is its place among the aligned pairs."""

    number: int
    pair: Pair
    kind: Kind
    values: tuple[ValueChange, ...]

    def to_json(self) -> dict[str, object]:
        """number, kind, register, a and b (events or null), values."""
        entry = self.pair.b or self.pair.a
        assert entry is not None
        return {
            "number": self.number,
            "kind": self.kind.value,
            "register": entry.register,
            "a": self.pair.a.to_json() if self.pair.a else None,
            "b": self.pair.b.to_json() if self.pair.b else None,
            "values": [value.to_json() for value in self.values],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """`pairs` are all events of both logs, aligned; empty where a side has no log."""

    a: Side
    b: Side
    registers: tuple[Register, ...]
    pairs: tuple[Pair, ...]
    differences: tuple[Difference, ...]
    causes: tuple[Cause, ...]

    @property
    def equal(self) -> bool:
        """Whether no register is known to differ and no event differs. RTMR3 is software's own."""
        return not self.differences and all(register.equal is not False for register in self.registers)

    @property
    def unexplained_registers(self) -> tuple[str, ...]:
        """Registers that differ for no known cause."""
        explained = {register for cause in self.causes for register in cause.registers}
        return tuple(
            register.name
            for register in self.registers
            if register.equal is False and register.name not in explained
        )

    @property
    def unexplained_differences(self) -> tuple[int, ...]:
        """Numbers of the differences that no cause claims."""
        claimed = {number for cause in self.causes for number in cause.differences}
        return tuple(item.number for item in self.differences if item.number not in claimed)

    def to_json(self) -> dict[str, object]:
        """a, b, equal, emulated, registers, differences, causes, unexplained."""
        return {
            "a": _side_json(self.a),
            "b": _side_json(self.b),
            "equal": self.equal,
            "emulated": self.a.emulated or self.b.emulated,
            "registers": {
                register.name: {
                    "a": register.a.hex() if register.a is not None else None,
                    "b": register.b.hex() if register.b is not None else None,
                    "equal": register.equal,
                }
                for register in self.registers
            },
            "differences": [item.to_json() for item in self.differences],
            "causes": [cause.to_json() for cause in self.causes],
            "unexplained": {
                "registers": list(self.unexplained_registers),
                "differences": list(self.unexplained_differences),
            },
        }


def compare(a: Side, b: Side) -> Comparison:
    """Compare two sides. Where one has no log, only registers are compared."""
    registers = tuple(Register(name, a.registers.get(name), b.registers.get(name)) for name in REGISTERS)
    pairs: tuple[Pair, ...] = ()
    if a.entries is not None and b.entries is not None:
        names = dict.fromkeys((*REGISTERS, *(entry.register for entry in (*a.entries, *b.entries))))
        both = [name for name in names if name not in a.unlogged | b.unlogged]
        pairs = find_moves(
            [pair for name in both for pair in align(a.of_register(name), b.of_register(name))]
        )
    differences = tuple(
        Difference(number, pair, pair.kind, changed_values(pair.a, pair.b) if pair.a and pair.b else ())
        for number, pair in enumerate(pairs)
        if pair.kind is not None
    )
    causes = explain(a, b, ((item.number, item.pair) for item in differences))
    return Comparison(a, b, registers, pairs, differences, causes)


def _side_json(side: Side) -> dict[str, object]:
    return {"name": side.name, "kind": side.kind, "emulated": side.emulated}
