"""Predictions for platforms whose inputs are not public, such as Google's: after the log of another TD.

What happens before the boot loader is the platform's, and is taken from the log of one of its TDs; whose keys
its firmware has is in there too. What follows is worked out from the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tdxstack.abi import event_log
from tdxstack.abi.event_log import MR_NAMES, Event, EventLog
from tdxstack.errors import MalformedError
from tdxstack.firmware.variables import SecureBoot, Variables
from tdxstack.measurement.describe import describe
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.expected import ExpectedEvent, Prediction
from tdxstack.measurement.firmware_boot import CALLING, GLOBAL
from tdxstack.measurement.loader_boot import EXIT_FAILED
from tdxstack.measurement.mrtd import Mrtd
from tdxstack.prediction.disk_boot import Start, disk_events

SOURCE = "the log of such a TD"
FROM_THE_DISK = (
    event_log.EV_EFI_GPT_EVENT,
    event_log.EV_EFI_BOOT_SERVICES_APPLICATION,
    event_log.EV_EFI_VARIABLE_AUTHORITY,
)
"""With one of these begins what the disk decides."""

HINT = "give the event log (CCEL) of a TD of that platform, booted from a disk"


@dataclass(frozen=True, slots=True)
class LoggedKeys:
    """The Secure Boot variables that a log has."""

    variables: Variables
    secure_boot: SecureBoot

    @classmethod
    def of(cls, events: tuple[Event, ...]) -> LoggedKeys:
        """Read them. Raises `MalformedError` where the log does not say whether Secure Boot is on."""
        found = {
            (variable.vendor, variable.name): variable
            for event in events
            if event.type == event_log.EV_EFI_VARIABLE_DRIVER_CONFIG
            for variable in (UefiVariable.parse(event.data),)
        }
        state = found.pop((GLOBAL, "SecureBoot"), None)
        if state is None:
            raise MalformedError("the log does not say whether Secure Boot is on", hint=HINT)
        filled = {key: variable for key, variable in found.items() if variable.data}
        if state.data == b"\1":
            return cls(filled, SecureBoot.ENABLED)
        setup = (GLOBAL, "PK") not in filled
        return cls(filled, SecureBoot.SETUP if setup else SecureBoot.DISABLED)


def predict_after(log: EventLog, firmware: Mrtd | None, disk: Path, called: Path | None = None) -> Prediction:
    """What a TD of that platform will measure when it starts from `disk`; `firmware` is its firmware's MRTD,
    where that is known.

    Reasons name the disk as it is `called`. Raises `MalformedError` for a log that does not show a boot,
    `UnavailableError` where the disk is missing.
    """
    taken = _platform_events(log.events)
    flushes = any(event.data == EXIT_FAILED for event in log.events)
    start = Start(LoggedKeys.of(taken), flushes, None, one_disk=True)
    return Prediction((*map(_as_expected, taken), *disk_events(disk, start, called)), firmware)


def _platform_events(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Those that extend a register before the first boot attempt's program is loaded."""
    tried = next((at for at, event in enumerate(events) if event.data == CALLING), None)
    if tried is None:
        raise MalformedError("the log shows no attempt to boot", hint=HINT)
    end = next((at for at in range(tried, len(events)) if events[at].type in FROM_THE_DISK), None)
    if end is None or any(event.data == CALLING for event in events[end:]):
        raise MalformedError("the log shows no boot that succeeded at once", hint=HINT)
    if any(event.type == event_log.EV_EFI_BOOT_SERVICES_APPLICATION for event in events[:tried]):
        raise MalformedError("the log is of a TD that did not start from a disk", hint=HINT)
    return tuple(
        event
        for event in events[:end]
        if event.extends and event.digest() is not None and event.mr_index < len(MR_NAMES)
    )


def _as_expected(event: Event) -> ExpectedEvent:
    return ExpectedEvent(event.mr_name.lower(), event.type, event.digest(), describe(event), SOURCE)
