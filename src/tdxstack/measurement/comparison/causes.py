"""Why two measurements differ: each known cause in one sentence, and what to do about it.

Sources: what edk2, QEMU, shim, GRUB and Linux measure, as `tdxstack.measurement.describe` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tdxstack.measurement.comparison.alignment import Pair
from tdxstack.measurement.comparison.boot_causes import BOOT_RULES
from tdxstack.measurement.comparison.cause import Case, Cause
from tdxstack.measurement.comparison.machine_causes import MACHINE_RULES
from tdxstack.measurement.comparison.register_causes import REGISTER_RULES
from tdxstack.measurement.comparison.side import Side

Rule = Callable[[Case], Iterator[Cause]]

RULES: tuple[Rule, ...] = (*MACHINE_RULES, *BOOT_RULES, *REGISTER_RULES)
"""In this order: a rule sees the differences that the earlier ones have left."""


def explain(a: Side, b: Side, differences: Iterable[tuple[int, Pair]]) -> tuple[Cause, ...]:
    """The causes of `differences`, and of registers that differ without any.

    What no rule claims stays unexplained; it is in no cause.
    """
    left = dict(differences)
    causes: list[Cause] = []
    for rule in RULES:
        for cause in rule(Case(a, b, left)):
            causes.append(cause)
            for number in cause.differences:
                left.pop(number, None)
    return tuple(causes)
