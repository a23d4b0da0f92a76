"""Predictions against the logs that real firmware, boot loaders and kernels write in emulated TDs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from tdxstack.abi.event_log import Event, EventLog
from tdxstack.cli.edge import surroundings
from tdxstack.evidence.document import Evidence
from tdxstack.firmware.contents import open_contents
from tdxstack.machine.placement import EmulatedSilicon, Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.machine.stopped import Launch
from tdxstack.machine.store import MachineFiles
from tdxstack.measurement.firmware_boot import IMAGE_SECURITY_DATABASE
from tdxstack.measurement.pe import Image
from tdxstack.platform import Platform
from tdxstack.prediction.boot import predict
from tdxstack.prediction.hardware import hardware
from tdxstack.testing.runner import Recording, Tdx
from tdxstack.toolbox.apt import extract
from tdxstack.workflows.workshop import Workshop
from tests.conformance import vectors
from tests.e2e.test_up import offline
from tests.unit.measurement import pe_images
from tests.unit.measurement.comparison.logs import signature_list

BOOT_SECONDS = 300
GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")


def logged(events: tuple[Event, ...]) -> list[tuple[str, str, str]]:
    return [(event.mr_name.lower(), event.type_name, (event.digest() or b"").hex()) for event in events]


def predicted(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(event["register"], event["type"], event["digest"]) for event in document["events"]]


def without_platform_key(firmware: bytes) -> bytes:
    """The same firmware in setup mode: its variable PK is marked as deleted."""
    changed = bytearray(firmware)
    header = changed.index(GLOBAL_VARIABLE + "PK\0".encode("utf-16-le")) - 44
    assert changed[header : header + 3] == b"\xaa\x55\x3f"
    changed[header + 2] = 0x3D
    return bytes(changed)


def with_database(firmware: bytes, database: bytes) -> bytes:
    """The same firmware with another db, written behind the last variable."""
    changed = bytearray(firmware)
    wide_name = "db\0".encode("utf-16-le")
    old = changed.index(IMAGE_SECURITY_DATABASE.bytes_le + wide_name) - 44
    assert changed[old : old + 3] == b"\xaa\x55\x3f"
    new = bytes(changed[old : old + 40]) + len(database).to_bytes(4, "little")
    new += IMAGE_SECURITY_DATABASE.bytes_le + wide_name + database
    changed[old + 2] = 0x3D
    end = old
    while changed[end : end + 2] == b"\xaa\x55":
        sizes = (int.from_bytes(changed[end + at : end + at + 4], "little") for at in (36, 40))
        end += -(-(60 + sum(sizes)) // 4) * 4
    assert not changed[end : end + len(new)].strip(b"\xff")
    changed[end : end + len(new)] = new
    return bytes(changed)


def test_every_event_of_the_main_job_is_predicted(tdx: Tdx, recording: Recording) -> None:
    """Shim and GRUB from disk, Secure Boot on."""
    evidence = Evidence.from_json((recording.files / "evidence.json").read_bytes())
    assert evidence.ccel_data is not None
    document = tdx.json("predict", "recorded")
    assert predicted(document) == logged(EventLog.parse(evidence.ccel_data).events)
    measured = recording.document["registers"]
    for name, value in document["registers"].items():
        assert value == measured[name]["measured"]
    assert document["emulated"] is True


def test_the_main_job_is_predicted_before_it_runs(tdx: Tdx, recording: Recording) -> None:
    """Without a machine's name: the options that `tdx up` takes by default."""
    assert tdx.json("predict")["registers"] == tdx.json("predict", "recorded")["registers"]


def test_a_platform_that_only_a_log_is_known_of(tdx: Tdx, recording: Recording, tmp_path: Path) -> None:
    """The log of the main job stands for a foreign platform's; the same disk must make the same of it."""
    evidence = Evidence.from_json((recording.files / "evidence.json").read_bytes())
    assert evidence.ccel_data is not None
    (tmp_path / "log").write_bytes(evidence.ccel_data)
    machine = tdx.json("predict")["machine"]
    options = ("--firmware", machine["firmware"], "--image", machine["disk"])
    document = tdx.json("predict", "--log", str(tmp_path / "log"), *options)
    assert predicted(document) == logged(EventLog.parse(evidence.ccel_data).events)
    assert {"the log of such a TD", "disk image"} <= {event["source"] for event in document["events"]}


def test_a_portable_reference_holds_for_machines_of_another_size(
    tdx: Tdx, recording: Recording, tmp_path: Path
) -> None:
    for options, verdict in ((["--portable"], 0), ([], 1)):
        tdx.run("predict", "--memory", "4096", "--vcpus", "4", "-o", str(tmp_path / "reference"), *options)
        words = ("--allow", "emulated", "--reference", str(tmp_path / "reference"), "--json")
        checks = json.loads(tdx.run(*offline(recording), *words, code=verdict).stdout)["checks"]
        failed = [check["id"] for check in checks if check["status"] == "fail"]
        assert failed == ([] if options else ["reference.rtmr0"])


def test_secure_boot_off_and_another_size(tdx: Tdx, recording: Recording, tmp_path: Path) -> None:
    original = Path(tdx.json("predict", "recorded")["machine"]["firmware"])
    firmware = tmp_path / "setup.fd"
    firmware.write_bytes(without_platform_key(original.read_bytes()))
    options = ("--firmware", str(firmware), "--memory", "3584", "--vcpus", "1")
    expected = tdx.json("predict", *options)
    tdx.run("up", "--name", "setup", "--platform", "emulated", "--yes", *options)
    try:
        evidence = Evidence.from_json((tdx.files("setup") / "evidence.json").read_bytes())
        assert evidence.ccel_data is not None
        assert predicted(expected) == logged(EventLog.parse(evidence.ccel_data).events)
    finally:
        tdx.run("down", "setup", "--force")


def test_own_keys_and_a_second_disk(guest: DirectKernel, tdx: Tdx, tmp_path: Path) -> None:
    """Secure Boot with a db that lets nothing start but this kernel, by its hash."""
    database = signature_list(Image.parse(guest.kernel.read_bytes()).digest("sha256"))
    with (tmp_path / "second").open("wb") as disk:
        disk.truncate(64 << 20)
    file = {"driver": "file", "filename": str(tmp_path / "second")}
    second = json.dumps({"driver": "raw", "node-name": "disk1", "file": file})
    expected, found = prediction_and_log(
        guest,
        tdx,
        tmp_path,
        2048,
        2,
        change=lambda firmware: with_database(firmware, database),
        more=("-blockdev", second, "-device", "virtio-blk-pci,drive=disk1"),
    )
    assert expected == found
    assert [kind for _, kind, _ in found].count("EV_EFI_VARIABLE_AUTHORITY") == 1


@pytest.mark.skipif(not vectors.present(), reason="no public vectors (TDXSTACK_VECTORS names their folder)")
def test_a_firmware_of_2024_takes_the_kernel_as_qemu_has_changed_it(
    guest: DirectKernel, tdx: Tdx, tmp_path: Path
) -> None:
    """Fedora's, which does not say its release, and has the separator in RTMR0."""
    image = vectors.read("virtee+tdx/tests/data/OVMF.inteltdx.fd")
    expected, found = prediction_and_log(
        guest, tdx, tmp_path, 2048, 2, change=lambda _: image, release="202405"
    )
    assert expected == found
    programs = [digest for _, kind, digest in found if kind == "EV_EFI_BOOT_SERVICES_APPLICATION"]
    assert len(programs) == 1
    assert programs[0] != Image.parse(guest.kernel.read_bytes()).digest().hex()


CHANGES = {
    "memory": ({"memory": 4096}, {"memory-size"}),
    "vCPUs": ({"vcpus": 4}, {"vcpu-count"}),
    "a second disk": ({"disks": [{"path": "second.raw", "overlay": False}]}, {"acpi-tables"}),
    "a key in db": ({"firmware": "more-keys.fd"}, {"secure-boot-variable", "variable-store"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_another_machine_would_change_is_named(
    change: str, tdx: Tdx, recording: Recording, tmp_path: Path
) -> None:
    """Between the log of the main job and the prediction of a machine that differs in one thing."""
    (tmp_path / "second.raw").write_bytes(bytes(64 << 20))
    firmware = Launch.parse(recording.document["machine"]["argv"]).firmware.read_bytes()
    db = open_contents(firmware).variables[(IMAGE_SECURITY_DATABASE, "db")].data
    (tmp_path / "more-keys.fd").write_bytes(with_database(firmware, db + signature_list(b"\7" * 32)))
    values, causes = CHANGES[change]
    (tmp_path / "spec.yaml").write_text(json.dumps(values))
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps(tdx.json("predict", "--spec", str(tmp_path / "spec.yaml"))))
    found = json.loads(tdx.run("compare", "recorded", str(expected), "--json", code=1).stdout)
    assert {cause["id"] for cause in found["causes"]} == causes
    assert found["unexplained"] == {"registers": [], "differences": []}
    if change == "a key in db":
        sentence = next(one["sentence"] for one in found["causes"] if one["id"] == "secure-boot-variable")
        assert f"only the second has hashes (SHA-256) {'07' * 32}" in sentence


@pytest.mark.parametrize("release", ["stable", "unstable"])
def test_a_unified_kernel_image(release: str, guest: DirectKernel, tdx: Tdx, tmp_path: Path) -> None:
    """The distribution's systemd-stub; without Secure Boot, a command line from outside is taken."""
    (tmp_path / "uki.efi").write_bytes(unified_kernel(release, guest, "quiet", tmp_path))
    boot = DirectKernel(kernel=tmp_path / "uki.efi", command_line=f" {guest.command_line}  ")
    expected, found = prediction_and_log(boot, tdx, tmp_path, 1024, 1)
    assert expected == found


def unified_kernel(release: str, guest: DirectKernel, command_line: str, place: Path) -> bytes:
    """A unified kernel image of the guest's kernel and initrd, with the stub of a release."""
    apt = Workshop(surroundings()).apt(attrgetter(release))
    root = extract(apt.fetch(("systemd-boot-efi",), with_dependencies=False), place / "stub")
    assert guest.initrd is not None
    sections = {
        ".osrel": b"ID=test\n",
        ".cmdline": command_line.encode(),
        ".uname": b"7",
        ".pcrpkey": b"key",
        ".initrd": guest.initrd.read_bytes(),
        ".linux": guest.kernel.read_bytes(),
    }
    stub = (root / "usr/lib/systemd/boot/efi/linuxx64.efi.stub").read_bytes()
    return pe_images.with_sections(stub, sections)


def prediction_and_log(
    kernel: DirectKernel | None,
    tdx: Tdx,
    tmp_path: Path,
    memory_mib: int,
    vcpus: int,
    disk: Path | None = None,
    change: Callable[[bytes], bytes] = without_platform_key,
    more: tuple[str, ...] = (),
    release: str = "",
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """The events that are predicted of a machine, and those that it logs.

    It has a kernel from QEMU and a disk of the image, or starts from a `disk` of its own. `change` makes
    its firmware of the usual one, `more` are further options of QEMU. `release` is edk2's, where the firmware
    does not say it.
    """
    files = MachineFiles(tmp_path, tmp_path)
    firmware = tmp_path / "firmware.fd"
    here = tdx.json("predict")["machine"]
    firmware.write_bytes(change(Path(here["firmware"]).read_bytes()))
    if disk is None:
        workshop = Workshop(surroundings())
        workshop.overlay(workshop.image(), files.disk)
    else:
        disk.rename(files.disk)
    argv = [*machine_argv(files, firmware, kernel, memory_mib, vcpus), *more]
    launch = Launch.parse(argv)
    machine = hardware(launch, tmp_path / "cache", confidential=True)
    prediction = predict(launch, firmware.read_bytes(), machine, files.disk, release=release)
    done = subprocess.run(argv, timeout=BOOT_SECONDS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    console = files.console_log.read_text(errors="replace")
    found = re.search(r"log begins(.*)log ends", console, re.DOTALL)
    assert found, console[-2000:]
    lines = [line for line in found[1].split() if re.fullmatch(r"[0-9a-f]{2,64}", line)]
    log = EventLog.parse(bytes.fromhex("".join(lines)))
    return predicted(prediction.to_json()), logged(log.events)


def machine_argv(
    files: MachineFiles,
    firmware: Path,
    kernel: DirectKernel | None = None,
    memory_mib: int = 1024,
    vcpus: int = 1,
) -> list[str]:
    """The command line of an emulated TD with the disk of `files`."""
    files.authorized_key.write_text("none\n")
    mac_key = files.directory / "mac"
    mac_key.write_bytes(bytes(32))
    spec = MachineSpec(name="matrix", direct_kernel=kernel, vcpus=vcpus, memory=memory_mib)
    placement = Placement(
        platform=Platform.EMULATED,
        qemu=tuple(Workshop(surroundings()).emulator().argv_prefix),
        firmware=firmware,
        authorized_key="none",
        silicon=EmulatedSilicon(mac_key, bytes(48), bytes(16), bytes(16)),
    )
    return build_qemu_command(spec, placement, files)
