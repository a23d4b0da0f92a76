"""Firmware with own keys, watched while it starts what they have signed, and refuses everything else."""

from __future__ import annotations

import json
import mmap
import subprocess
import tarfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tdxstack.abi.event_log import EventLog
from tdxstack.cli.edge import surroundings
from tdxstack.evidence.document import Evidence
from tdxstack.image.disk import Tools, assemble, convert
from tdxstack.image.recipe import Format
from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.machine.store import MachineFiles
from tdxstack.measurement.mrtd import mrtd
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.fat import Fat
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import open_disk
from tdxstack.run import run
from tdxstack.testing.runner import Tdx
from tdxstack.workflows.workshop import Workshop
from tests.e2e.test_predict import logged, machine_argv, predicted, prediction_and_log, unified_kernel

REFUSAL_SECONDS = 120
AUTHORITY = "EV_EFI_VARIABLE_AUTHORITY"


@pytest.fixture(scope="module")
def original(tdx: Tdx) -> Path:
    """The distribution's firmware, with Microsoft's keys."""
    return Path(tdx.json("predict")["machine"]["firmware"])


@pytest.fixture(scope="module")
def unsigned(guest: DirectKernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unified kernel image that prints its log."""
    place = tmp_path_factory.mktemp("uki")
    path = place / "unsigned.efi"
    path.write_bytes(unified_kernel("stable", guest, f" {guest.command_line}\n", place))
    return path


@pytest.fixture(scope="module")
def signed(tdx: Tdx, unsigned: Path) -> Path:
    """The same, signed with the own key."""
    path = unsigned.with_name("signed.efi")
    document = tdx.json("firmware", "sign", str(unsigned), "-o", str(path))
    verify = Workshop(surroundings()).toolbox.program("sbverify")
    run(verify.argv("--cert", document["certificate"], path))
    other = Path(document["certificate"]).with_name("KEK.pem")
    assert run(verify.argv("--cert", other, path), check=False).returncode == 1
    return path


def disk_with(program: Path, place: Path) -> Path:
    """A disk that starts a program."""
    place.mkdir()
    (place / "work").mkdir()
    with tarfile.open(place / "root.tar", "w"):
        pass
    toolbox = Workshop(surroundings()).toolbox
    esp = {"EFI/BOOT/BOOTX64.EFI": program.read_bytes()}
    tools, disk = Tools(toolbox, 0), place / "disk.qcow2"
    raw = assemble(tools, place / "root.tar", esp, place / "work", size=4 << 30)
    convert(tools, raw, disk, Format.QCOW2)
    return disk


def enrolled(tdx: Tdx, original: Path, output: Path, *options: str) -> bytes:
    """The original firmware with other keys; it starts as the same TD, as far as MRTD says."""
    document = tdx.json("firmware", "enroll", str(original), "-o", str(output), *options)
    image = output.read_bytes()
    assert mrtd(image) == mrtd(original.read_bytes())
    assert document["mrtd"]["single_pass"] == mrtd(image).single_pass.hex()
    return image


def test_a_program_of_ones_own_starts_under_ones_own_keys_alone(
    signed: Path, original: Path, tdx: Tdx, tmp_path: Path
) -> None:
    image = enrolled(tdx, original, tmp_path / "own.fd", "--no-microsoft")
    disk = disk_with(signed, tmp_path / "disk")
    expected, found = prediction_and_log(None, tdx, tmp_path, 1024, 1, disk, change=lambda _: image)
    assert expected == found
    assert [kind for _, kind, _ in found].count(AUTHORITY) == 1


def test_in_setup_mode_an_unsigned_program_starts(
    unsigned: Path, original: Path, tdx: Tdx, tmp_path: Path
) -> None:
    image = enrolled(tdx, original, tmp_path / "setup.fd", "--setup-mode")
    disk = disk_with(unsigned, tmp_path / "disk")
    expected, found = prediction_and_log(None, tdx, tmp_path, 1024, 1, disk, change=lambda _: image)
    assert expected == found
    assert AUTHORITY not in [kind for _, kind, _ in found]


def test_unsigned_and_changed_programs_are_refused(
    signed: Path, unsigned: Path, original: Path, tdx: Tdx, tmp_path: Path
) -> None:
    """Two disks, one with each: the firmware tries both."""
    enrolled(tdx, original, tmp_path / "own.fd")
    changed = tmp_path / "changed.efi"
    program = bytearray(signed.read_bytes())
    program[len(program) // 2] ^= 1
    changed.write_bytes(program)
    disks = [disk_with(one, tmp_path / one.stem) for one in (unsigned, changed)]
    for disk in disks:
        options = ("--firmware", str(tmp_path / "own.fd"), "--image", str(disk))
        document = tdx.json("predict", *options, code=1)
        assert "Secure Boot will not let" in json.dumps(document["events"][-1])
    files = MachineFiles(tmp_path, tmp_path)
    disks[0].rename(files.disk)
    file = {"driver": "file", "filename": str(disks[1])}
    second = json.dumps({"driver": "qcow2", "node-name": "disk1", "file": file})
    more = ("-blockdev", second, "-device", "virtio-blk-pci,drive=disk1,bootindex=1")
    console = console_until("Access Denied", 2, files, [*machine_argv(files, tmp_path / "own.fd"), *more])
    assert console.count("failed to load Boot") == 2, console
    assert console.count("Access Denied") == 2, console
    assert "log begins" not in console


def console_until(words: str, times: int, files: MachineFiles, argv: list[str]) -> str:
    """What a machine says until it has said `words` so often, or has ended, or it takes too long."""
    machine = subprocess.Popen(argv)
    try:
        console = ""
        deadline = time.monotonic() + REFUSAL_SECONDS
        while console.count(words) < times and machine.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if files.console_log.exists():
                console = files.console_log.read_text(errors="replace")
        return console
    finally:
        machine.kill()
        machine.wait()


@pytest.mark.parametrize(
    ("stage", "refusal"), [("GRUB", "Security Violation"), ("kernel", "bad shim signature")]
)
def test_a_changed_stage_behind_shim_is_refused(
    stage: str, refusal: str, original: Path, tdx: Tdx, tmp_path: Path
) -> None:
    """The distribution's shim, under Microsoft's keys, and a byte of what comes after it."""
    image, raw = tdx.json("predict")["machine"]["disk"], tmp_path / "disk.raw"
    program = Workshop(surroundings()).toolbox.program("qemu-img")
    run(program.argv("convert", "-O", "raw", image, raw))
    with open_disk(raw) as disk:
        esp, root = (partition.start for partition in read_partitions(disk).partitions)
        if stage == "GRUB":
            data, start = Fat(disk, esp).read("EFI/BOOT/grubx64.efi"), esp
        else:
            data, start = Ext4(disk, root).read("/vmlinuz"), root
    assert data is not None
    with raw.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        middle = len(data) // 2 & -4096
        place = content.find(data[middle : middle + 4096], start)
        content[place] ^= 1
    document = tdx.json("predict", "--image", str(raw), code=1)
    assert "Secure Boot will not let" in json.dumps(document["events"][-1])
    files = MachineFiles(tmp_path, tmp_path)
    run(program.argv("convert", "-O", "qcow2", raw, files.disk))
    console = console_until(refusal, 1, files, machine_argv(files, original))
    assert refusal in console, console
    assert "Linux version" not in console


def test_ones_own_keys_beside_microsofts(original: Path, tdx: Tdx, tmp_path: Path) -> None:
    """Shim and GRUB of the distribution start, and what the TD measures is what was predicted."""
    enrolled(tdx, original, tmp_path / "own.fd")
    firmware = ("--firmware", str(tmp_path / "own.fd"))
    expected = tdx.json("predict", *firmware)
    document = tdx.json("up", "--name", "own-keys", "--platform", "emulated", "--yes", *firmware)
    try:
        measured = {name: register["measured"] for name, register in document["registers"].items()}
        assert {name: measured[name] for name in expected["registers"]} == expected["registers"]
        assert measured["mrtd"] == mrtd(original.read_bytes()).single_pass.hex()
        assert measured["rtmr0"] != tdx.json("predict")["registers"]["rtmr0"]
        evidence = Evidence.from_json((tdx.files("own-keys") / "evidence.json").read_bytes())
        assert evidence.ccel_data is not None
        assert predicted(expected) == logged(EventLog.parse(evidence.ccel_data).events)
    finally:
        tdx.run("down", "own-keys", "--force")


def test_a_store_that_is_too_small_for_all_certificates(original: Path, tdx: Tdx, tmp_path: Path) -> None:
    """As virt-fw-vars says it; what was there before is left."""
    output = tmp_path / "own.fd"
    output.write_bytes(b"before")
    options: list[str] = []
    for number in range(6):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(large_certificate().public_bytes(Encoding.PEM))
        options += ["--db", str(path)]
    done = tdx.run("firmware", "enroll", str(original), "-o", str(output), *options, code=2)
    assert "is too small for these certificates" in done.stderr
    assert "has no RSA key" in done.stderr
    assert output.read_bytes() == b"before"


def large_certificate() -> x509.Certificate:
    """A certificate of 40 KB."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "large")])
    bulk = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999"), bytes(40_000))
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(bulk, critical=False)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=9000))
    return builder.sign(key, hashes.SHA256())
