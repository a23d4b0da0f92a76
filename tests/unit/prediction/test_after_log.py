"""Predictions after the log of another TD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.abi.event_log import ALG_SHA384, Event, EventLog, SpecId
from tdxstack.errors import MalformedError
from tdxstack.measurement.expected import Prediction
from tdxstack.measurement.mrtd import mrtd
from tdxstack.measurement.reference import Reference
from tdxstack.prediction.after_log import SOURCE, predict_after
from tests.unit.firmware import firmware_images, test_signatures
from tests.unit.measurement.comparison import logs
from tests.unit.prediction.test_boot import disk, kernel, of_disk, of_systemd_boot, systemd_boot

HEADER = SpecId(0, bytes(20), 0, 0, 2, 0, 2, ((ALG_SHA384, 48),), b"")
CALLING = logs.action(b"Calling EFI Application from Boot Option")
OFF = (logs.hob(1 << 30), logs.variable("SecureBoot", b"\0"), logs.variable("PK", b""))
TRIED = (CALLING, logs.separator(logs.RTMR1))
BOOTED = (logs.gpt(logs.OWNER), logs.image(b"shim"), logs.action(b"Exit Boot Services Returned with Failure"))


def after(events: tuple[Event, ...], path: Path) -> Prediction:
    return predict_after(EventLog(HEADER, events), mrtd(firmware_images.firmware()), path)


def test_the_platform_s_events_stay_and_the_disk_s_are_predicted(tmp_path: Path) -> None:
    path = disk(tmp_path)
    prediction = after((*OFF, *TRIED, *BOOTED), path)
    taken = [event for event in prediction.events if event.source == SOURCE]
    assert [event.digest for event in taken] == [event.digest() for event in (*OFF, *TRIED)]
    whole = of_disk(path).events
    start = next(at for at, event in enumerate(whole) if event.meaning.startswith("partition table"))
    assert prediction.events[len(taken) :] == whole[start:]
    assert prediction.mrtd == of_disk(path).mrtd
    assert prediction.whole


def test_mrtd_is_not_known_without_the_firmware(tmp_path: Path) -> None:
    log = EventLog(HEADER, (*OFF, *TRIED, *BOOTED))
    prediction = predict_after(log, None, disk(tmp_path))
    assert prediction.registers["mrtd"] is None
    assert not prediction.whole
    assert prediction.to_json()["mrtd"] == {"single_pass": None, "two_pass": None}
    reference = Reference.of(prediction, "x")
    assert set(reference.registers) == {"rtmr0", "rtmr1", "rtmr2"}


def test_secure_boot_is_as_the_log_has_it(tmp_path: Path) -> None:
    database = logs.variable("db", test_signatures.database(test_signatures.ROOT), logs.DATABASE)
    on = (logs.variable("SecureBoot", b"\1"), logs.variable("PK", b"key"), database)
    prediction = after((*on, *TRIED, *BOOTED), disk(tmp_path))
    assert all("no key in the firmware's db verifies" in event.reason for event in prediction.unpredicted)
    assert prediction.registers["rtmr0"] is None


def test_boot_services_end_as_in_the_log(tmp_path: Path) -> None:
    without = after((*OFF, *TRIED, *BOOTED[:-1]), disk(tmp_path))
    assert len(without.events) == len(after((*OFF, *TRIED, *BOOTED), disk(tmp_path)).events) - 1


def test_smbios_of_an_unknown_platform_is_not_guessed(tmp_path: Path) -> None:
    path = disk(
        tmp_path, {"EFI": {"BOOT": {"BOOTX64.EFI": systemd_boot("262.1")}}, **of_systemd_boot(kernel())}
    )
    prediction = after((*OFF, *TRIED, *BOOTED), path)
    assert any("does not publish" in event.reason for event in prediction.unpredicted)


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (OFF, "shows no attempt to boot"),
        ((*OFF, *TRIED), "no boot that succeeded at once"),
        ((*OFF, *TRIED, *BOOTED, CALLING), "no boot that succeeded at once"),
        ((*OFF, logs.image(b"kernel"), *TRIED, *BOOTED), "did not start from a disk"),
        ((OFF[0], *TRIED, *BOOTED), "whether Secure Boot is on"),
        ((*OFF, replace(OFF[1], data=b"x"), *TRIED, *BOOTED), "variable"),
    ],
)
def test_a_log_of_another_kind_is_named(events: tuple[Event, ...], problem: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=problem):
        after(events, disk(tmp_path))
