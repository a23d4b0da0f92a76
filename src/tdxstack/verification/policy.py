"""What a relying party accepts. The defaults are strict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from tdxstack.verification.tcb_info import TcbStatus


@dataclass(frozen=True, slots=True)
class Policy:
    """What to demand of a quote besides that it is genuine.

    `expected` maps names of quote body fields ("mrtd", "rtmr0", "report_data", ...; for SGX "mrenclave", ...)
    to the bytes they must have. `required_attributes` are TD ATTRIBUTES bits that must be set.
    """

    accepted_tcb_statuses: frozenset[TcbStatus] = frozenset({TcbStatus.UP_TO_DATE})
    minimum_evaluation_number: int = 0
    """The lowest tcbEvaluationDataNumber that TCB info and QE identity may have."""

    collateral_grace: timedelta = timedelta(0)
    """How long collateral is taken after its nextUpdate."""

    platform_grace: timedelta | None = None
    """If given, an accepted OutOfDate status counts only so long after the date of the TCB level."""

    allow_debug: bool = False
    allow_emulated: bool = False
    required_attributes: int = 0
    expected: Mapping[str, bytes] = field(default_factory=dict)
