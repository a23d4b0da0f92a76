"""Causes that no event shows: of MRSEAM and MRTD, which have no log, and of extensions never logged."""

from __future__ import annotations

from collections.abc import Iterator

from tdxstack.measurement.comparison.cause import Case, Cause


def _mrseam(case: Case) -> Iterator[Cause]:
    a, b = case.a.registers.get("mrseam"), case.b.registers.get("mrseam")
    if a is not None and b is not None and a != b:
        yield Cause(
            "tdx-module",
            "The TDX modules differ: other releases, or one side is emulated.",
            "`tdx host module show FILE` gives the MRSEAM of a file; update the host or the reference.",
            (),
            ("mrseam",),
        )


def _mrtd(case: Case) -> Iterator[Cause]:
    a, b = case.a.registers.get("mrtd"), case.b.registers.get("mrtd")
    if a is None or b is None or a == b:
        return
    if a == case.b.mrtd_two_pass or b == case.a.mrtd_two_pass:
        yield Cause(
            "mrtd-two-pass",
            "The firmware is the same; one VMM adds all pages before it measures them (MRTD in two passes).",
            "Accept both values of this firmware; `tdx firmware inspect` shows them.",
            (),
            ("mrtd",),
        )
        return
    yield Cause(
        "firmware-file",
        "The firmware files differ (or their MRTD was made in another order of pages).",
        "Compare both files with `tdx firmware inspect`.",
        (),
        ("mrtd",),
    )


def _unlogged(case: Case) -> Iterator[Cause]:
    """Registers that were extended without a word in the log."""
    for side in (case.a, case.b):
        for register, value in side.registers.items():
            folded = side.folded(register)
            if folded is None or folded == value:
                continue
            if register == "rtmr3":
                sentence = (
                    f"Software in {side.name} extended RTMR3, which leaves no entry in the firmware's log."
                )
                advice = "Ask the software that extends it (IMA, an attestation agent) for its own log."
            else:
                sentence = f"The log of {side.name} does not replay to its {register.upper()}."
                advice = "Do not trust this log; look for extensions by the running system, or a damaged log."
            yield Cause(f"unlogged-{register}", sentence, advice, (), (register,))


REGISTER_RULES = (
    _mrseam,
    _mrtd,
    _unlogged,
)
