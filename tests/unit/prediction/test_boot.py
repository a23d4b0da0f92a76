"""Whole predictions, of machines made of synthetic parts."""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdxstack.abi import event_log
from tdxstack.errors import MalformedError, UsageError
from tdxstack.machine.stopped import Launch
from tdxstack.measurement.expected import Prediction
from tdxstack.measurement.firmware_boot import CALLING
from tdxstack.prediction.boot import check_kernel, predict
from tdxstack.prediction.hardware import Hardware, PciFunction
from tests.unit.firmware import firmware_images, test_signatures
from tests.unit.measurement import pe_images
from tests.unit.measurement.test_shim import REVOKED, shim_program
from tests.unit.measurement.test_unified_kernel import NEW_MAGIC, unified_program
from tests.unit.prediction import disks

END_OF_SMBIOS = b"\x7f\x04\x00\x7f\0\0"
HARDWARE = Hardware(
    files={
        "etc/table-loader": b"loader",
        "etc/acpi/rsdp": b"rsdp",
        "etc/acpi/tables": b"tables",
        "etc/smbios/smbios-tables": END_OF_SMBIOS,
        "bootorder": b"/pci@i0cf8/scsi@1/disk@0,0\0",
    },
    boot_menu=b"\0\0",
    kernel_setup=b"",
    named_kernel=False,
    functions=(PciFunction(1, 0, 0x1AF4, 0x1042),),
    td_cpu=True,
)
GRUB = pe_images.program({".text": b"\0/EFI/test\0grub_cmd: \0tpm2%s present\n\0", "mods": b"modules"})
CONFIG = f"search --fs-uuid --set=root {disks.ROOT_UUID}\nlinux /vmlinuz quiet\ninitrd /initrd\nboot\n"


def kernel(version: str = "6.12.0-test", *signatures: bytes) -> bytes:
    """A bzImage that is a PE program, as kernels with an EFI stub are."""
    made = bytearray(pe_images.program({".text": bytes(1024)}, signatures=signatures))
    made[0x202:0x206] = b"HdrS"
    made[0x20E:0x210] = struct.pack("<H", 0x1F0)
    made[0x3F0 : 0x3F0 + len(version) + 1] = version.encode() + b"\0"
    return bytes(made)


def of_grub(configuration: str, shim: bytes | None = None) -> disks.Tree:
    """Files by which a shim starts a GRUB with that configuration."""
    boot: disks.Tree = {"BOOTX64.EFI": shim or shim_program(), "grubx64.efi": GRUB}
    return {"EFI": {"BOOT": boot, "test": {"grub.cfg": configuration.encode("latin-1")}}}


def systemd_boot(version: str = "257.13") -> bytes:
    return pe_images.program({".sdmagic": f"#### LoaderInfo: systemd-boot {version} ####".encode()})


def of_systemd_boot(program: bytes, options: str = "quiet") -> disks.Tree:
    """Files by which it starts a program."""
    entry = f"linux /vmlinuz\ninitrd /initrd\noptions {options}".encode()
    loader: disks.Tree = {"loader.conf": b"timeout 0\n", "entries": {"a.conf": entry}}
    return {"loader": loader, "vmlinuz": program, "initrd": b"initrd"}


def launch(*options: str) -> Launch:
    return Launch.parse(["qemu", "-m", "1024M", "-smp", "1", "-bios", "firmware.fd", *options])


def disk(tmp_path: Path, esp: disks.Tree | None = None) -> Path:
    whole = of_grub(CONFIG)
    path = tmp_path / "disk.raw"
    path.write_bytes(disks.disk(whole if esp is None else esp, {"vmlinuz": kernel(), "initrd": b"initrd"}))
    return path


def of_disk(path: Path | None, firmware: bytes | None = None, machine: Hardware = HARDWARE) -> Prediction:
    return predict(launch(), firmware or firmware_images.firmware(), machine, path)


def digests(prediction: Prediction, register: str) -> list[bytes | None]:
    return [event.digest for event in prediction.events if event.register == register]


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def test_a_disk_through_shim_and_grub(tmp_path: Path) -> None:
    prediction = of_disk(disk(tmp_path))
    assert prediction.unpredicted == ()
    assert digests(prediction, "rtmr1") == [
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(bytes(4)),
        sha384(disks.gpt()[512:604] + (2).to_bytes(8, "little") + disks.gpt()[1024:1280]),
        pe_images.digest(shim_program()),
        pe_images.digest(GRUB),
        sha384(b"Exit Boot Services Returned with Failure"),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    ]
    assert digests(prediction, "rtmr2")[1:] == [
        sha384(REVOKED),
        sha384(b"\1"),
        sha384("BOOT_IMAGE=/vmlinuz quiet".encode("utf-16-le")),
        sha384(b"initrd"),
    ]


def test_a_kernel_from_qemu(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel())
    (tmp_path / "initrd").write_bytes(b"initrd")
    options = ["-kernel", str(tmp_path / "vmlinuz"), "-initrd", str(tmp_path / "initrd"), "-append", "quiet"]
    prediction = predict(launch(*options), firmware_images.firmware(), HARDWARE, None)
    assert digests(prediction, "rtmr1") == [
        pe_images.digest(kernel()),
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(bytes(4)),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    ]
    assert digests(prediction, "rtmr2") == [
        sha384("initrd=initrd quiet\0".encode("utf-16-le")),
        sha384(b"initrd"),
    ]


def test_a_unified_kernel_image_from_qemu(tmp_path: Path) -> None:
    program = unified_program({".cmdline": b"inside"})
    (tmp_path / "uki.efi").write_bytes(program)
    options = ["-kernel", str(tmp_path / "uki.efi"), "-append", "outside"]
    prediction = predict(launch(*options), firmware_images.firmware(), HARDWARE, None)
    assert digests(prediction, "rtmr1") == [
        pe_images.digest(program),
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(bytes(4)),
        pe_images.digest(kernel()),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    ]
    assert digests(prediction, "rtmr2") == [
        *(sha384(data) for data in (b".linux\0", kernel(), b".cmdline\0", b"inside")),
        *[sha384("outside\0".encode("utf-16-le"))] * 2,
    ]
    (tmp_path / "initrd").write_bytes(b"initrd")
    second = launch(*options, "-initrd", str(tmp_path / "initrd"))
    refused = predict(second, firmware_images.firmware(), HARDWARE, None)
    assert all("brings its own initrd" in event.reason for event in refused.unpredicted)
    assert refused.registers["rtmr2"] is None


def test_a_unified_kernel_image_as_the_disk_s_first_program(tmp_path: Path) -> None:
    program = unified_program({".cmdline": b"inside"})
    esp: disks.Tree = {"EFI": {"BOOT": {"BOOTX64.EFI": program}}, "loader": {"addons": {}}}
    prediction = of_disk(disk(tmp_path, esp))
    assert prediction.unpredicted == ()
    assert digests(prediction, "rtmr1")[3:5] == [pe_images.digest(program), pe_images.digest(kernel())]
    assert digests(prediction, "rtmr2")[-1] == sha384("inside\0".encode("utf-16-le"))


def test_a_unified_kernel_image_behind_shim(tmp_path: Path) -> None:
    program = unified_program()
    prediction = of_disk(
        disk(tmp_path, {"EFI": {"BOOT": {"BOOTX64.EFI": shim_program(), "grubx64.efi": program}}})
    )
    assert prediction.unpredicted == ()
    assert digests(prediction, "rtmr1")[3:6] == [
        pe_images.digest(one) for one in (shim_program(), program, kernel())
    ]


@pytest.mark.parametrize("behind_shim", [False, True], ids=["first", "behind shim"])
@pytest.mark.parametrize("version", ["257.13", "262.1"])
def test_systemd_boot_starts_a_kernel(tmp_path: Path, version: str, behind_shim: bool) -> None:
    loader = systemd_boot(version)
    programs = [*([shim_program()] if behind_shim else []), loader]
    boot: disks.Tree = dict(zip(("BOOTX64.EFI", "grubx64.efi"), programs, strict=False))
    structure = bytes((1, 27)) + bytes(22) + b"\6\0\0" + b"\0\0"
    tables = {**HARDWARE.files, "etc/smbios/smbios-tables": structure + END_OF_SMBIOS}
    machine = replace(HARDWARE, files=tables)
    path = disk(tmp_path, {"EFI": {"BOOT": boot}, **of_systemd_boot(kernel())})
    prediction = of_disk(path, machine=machine)
    assert prediction.unpredicted == ()
    new = version.startswith("262")
    assert digests(prediction, "rtmr1")[3:-3] == [
        *(pe_images.digest(program) for program in programs),
        *([sha384(b"timeout 0\n")] if new else []),
        pe_images.digest(kernel()),
    ]
    options = sha384("initrd=\\initrd quiet\0".encode("utf-16-le"))
    assert digests(prediction, "rtmr2")[-3:] == [options, options, sha384(b"initrd")]
    cleared = structure[:24] + b"\0" + structure[25:]
    assert (sha384(cleared) in digests(prediction, "rtmr0")) is new


def test_a_header_that_qemu_has_written_into_is_measured_so(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel())
    machine = replace(HARDWARE, kernel_setup=b"MZ" + bytes(0x3A) + kernel()[0x3C:0x400])
    prediction = predict(
        launch("-kernel", str(tmp_path / "vmlinuz")), firmware_images.firmware(), machine, None
    )
    expected = machine.kernel_setup + kernel()[0x400:]
    assert digests(prediction, "rtmr1")[0] == pe_images.digest(expected)
    assert pe_images.digest(expected) != pe_images.digest(kernel())
    (event,) = (one for one in prediction.events if one.digest == pe_images.digest(expected))
    assert event.other_header == pe_images.digest(kernel())
    assert event.to_json()["other_header"] == pe_images.digest(kernel()).hex()


def test_whether_a_header_is_written_into_for_a_td_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel())
    machine = replace(HARDWARE, kernel_setup=b"MZ" + bytes(0x3A) + kernel()[0x3C:0x400], td_cpu=False)
    options = launch("-kernel", str(tmp_path / "vmlinuz"))
    prediction = predict(options, firmware_images.firmware(), machine, None)
    assert prediction.registers["rtmr1"] is None
    assert any("writes into the kernel's header" in event.reason for event in prediction.unpredicted)
    unchanged = replace(machine, kernel_setup=kernel()[:0x400])
    assert predict(options, firmware_images.firmware(), unchanged, None).registers["rtmr1"] is not None


def test_kernels_before_6_9_measure_nothing(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel("6.8.0"))
    options = ["-kernel", str(tmp_path / "vmlinuz"), "-append", "quiet"]
    prediction = predict(launch(*options), firmware_images.firmware(), HARDWARE, None)
    assert prediction.registers["rtmr2"] == bytes(48)


def test_secure_boot_names_the_keys(tmp_path: Path) -> None:
    trusted = test_signatures.database(test_signatures.ROOT)
    stored = [
        firmware_images.variable("PK", b"key"),
        firmware_images.variable("db", trusted, vendor="d719b2cb-3d3a-4596-a3bc-dad00e67656f"),
    ]
    prediction = of_disk(disk(tmp_path), firmware_images.firmware(variables=stored))
    assert all("no key in the firmware's db verifies" in event.reason for event in prediction.unpredicted)
    assert prediction.registers["rtmr0"] is None


@pytest.mark.parametrize(
    ("esp", "problem"),
    [
        ({}, "no file EFI/BOOT/BOOTX64.EFI"),
        ({"EFI": {"BOOT": {"BOOTX64.EFI": b"text"}}}, "EFI/BOOT/BOOTX64.EFI: PE image"),
        (
            {"EFI": {"BOOT": {"BOOTX64.EFI": pe_images.program({".linux": b"k"})}}},
            "EFI/BOOT/BOOTX64.EFI: unified kernel image: its stub is not systemd-stub",
        ),
        ({"EFI": {"BOOT": {"BOOTX64.EFI": unified_program(magic=NEW_MAGIC)}}}, "adds a secret to the initrd"),
        (
            {
                "EFI": {"BOOT": {"BOOTX64.EFI": unified_program()}},
                "loader": {"addons": {"a.addon.efi": b"x"}},
            },
            "may add loader/addons/a.addon.efi",
        ),
        ({"EFI": {"BOOT": {"BOOTX64.EFI": systemd_boot()}}}, "systemd-boot: it finds no entry"),
        (
            {
                "EFI": {"BOOT": {"BOOTX64.EFI": systemd_boot()}},
                **of_systemd_boot(unified_program()),
            },
            "gives a unified kernel image a second initrd",
        ),
        (
            {"EFI": {"BOOT": {"BOOTX64.EFI": systemd_boot()}}, **of_systemd_boot(systemd_boot())},
            "vmlinuz is no Linux kernel",
        ),
        ({"EFI": {"BOOT": {"BOOTX64.EFI": pe_images.program({".text": b"k"})}}}, "that is not known"),
        ({"EFI": {"BOOT": {"BOOTX64.EFI": shim_program()}}}, "no file EFI/BOOT/grubx64.efi"),
        (
            {"EFI": {"BOOT": {"BOOTX64.EFI": shim_program(), "fbx64.efi": b"x"}}},
            "makes boot options",
        ),
        ({"EFI": {"BOOT": {"BOOTX64.EFI": shim_program(), "grubx64.efi": b"MZ"}}}, "grubx64.efi: PE image"),
        ({"EFI": {"BOOT": {"BOOTX64.EFI": shim_program(), "grubx64.efi": GRUB}}}, "has 0 configurations"),
        (of_grub("menuentry 'unclosed { linux /vmlinuz }\n"), "/EFI/test/grub.cfg, line 1: "),
        (of_grub("\0\xff\0"), "/EFI/test/grub.cfg"),
        (of_grub(CONFIG.replace("linux /vmlinuz", "linux /initrd")), "/initrd is no Linux kernel"),
    ],
)
def test_what_a_disk_keeps_from_knowing_is_named(tmp_path: Path, esp: disks.Tree, problem: str) -> None:
    path = disk(tmp_path, esp)
    prediction = of_disk(path)
    assert {event.register for event in prediction.unpredicted} == {"rtmr0", "rtmr1", "rtmr2"}
    for event in prediction.unpredicted:
        assert event.reason.startswith(f"disk image {path}: ")
        assert problem in event.reason
    assert prediction.registers["mrtd"] is not None
    known = of_disk(disk(tmp_path)).events
    separator = next(number for number, event in enumerate(known) if event.type == event_log.EV_EFI_GPT_EVENT)
    assert prediction.events[:separator] == known[:separator]


def test_a_disk_that_starts_nothing_is_named(tmp_path: Path) -> None:
    whole = disk(tmp_path).read_bytes()
    no_esp = disks.gpt(esp_type=disks.LINUX_TYPE)
    path = tmp_path / "given"
    for data, problem in (
        (no_esp + whole[len(no_esp) :], "the disk has no EFI system partition"),
        (bytes(1 << 20), "it has no GUID partition table"),
        (b"", "it has no GUID partition table"),
        (disks.qcow2(whole)[: 4 << 16], "it is cut short"),
    ):
        path.write_bytes(data)
        unpredicted = of_disk(path).unpredicted
        assert len(unpredicted) == 3
        assert all(one.reason.startswith(f"disk image {path}: ") for one in unpredicted)
        assert all(problem in one.reason for one in unpredicted)
        assert all(one.reason.count(str(path)) == 1 for one in unpredicted)


def test_a_disk_is_named_as_the_user_calls_it(tmp_path: Path) -> None:
    path, called = disk(tmp_path, {}), Path("mine.qcow2")
    unpredicted = predict(launch(), firmware_images.firmware(), HARDWARE, path, called).unpredicted
    assert {one.reason.partition(": ")[0] for one in unpredicted} == {"disk image mine.qcow2"}


def test_a_kernel_from_qemu_that_is_not_followed_is_named_and_its_program_predicted(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    foreign = pe_images.program({".linux": b"k"})
    other = pe_images.program({".text": b"k"})
    for program, problem, known in (
        (b"text", "PE image: it has no PE signature", False),
        (foreign, "unified kernel image: its stub is not systemd-stub", True),
        (other, "it is no Linux kernel", True),
    ):
        path.write_bytes(program)
        prediction = predict(launch("-kernel", str(path)), firmware_images.firmware(), HARDWARE, None)
        assert {one.reason for one in prediction.unpredicted} == {prediction.unpredicted[0].reason}
        assert prediction.unpredicted[0].reason.startswith(f"{path}: {problem}")
        assert prediction.registers["rtmr1"] is None
        found = digests(prediction, "rtmr1")
        assert (found[0] == pe_images.digest(program)) if known else found[0] == sha384(CALLING)


def test_what_qemu_takes_for_no_kernel_is_named_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    for good in (kernel(), bytes(0x202) + b"HdrS", unified_program()):
        path.write_bytes(good)
        check_kernel(path)
    for bad in (b"", b"root:x:0:0", bytes(0x300)):
        path.write_bytes(bad)
        with pytest.raises(MalformedError, match=rf"{path} is neither a Linux kernel"):
            check_kernel(path)


@pytest.mark.parametrize("size", [0, 100, 0x1000, 0x5000, firmware_images.SIZE - 1])
def test_a_firmware_that_is_cut_short_is_named(size: int) -> None:
    with pytest.raises(MalformedError, match=r"firmware\.fd") as caught:
        predict(launch(), firmware_images.firmware()[:size], HARDWARE, None)
    assert caught.value.hint


def test_an_encrypted_root_is_named(tmp_path: Path) -> None:
    path = disk(tmp_path)
    data = bytearray(path.read_bytes())
    data[disks.ROOT_START : disks.ROOT_START + disks.ROOT_SIZE] = b"LUKS\xba\xbe".ljust(
        disks.ROOT_SIZE, b"\0"
    )
    path.write_bytes(data)
    prediction = of_disk(path)
    assert "partition 2 holds LUKS, which is not read" in prediction.unpredicted[0].reason
    assert pe_images.digest(GRUB) in digests(prediction, "rtmr1")


def test_other_machines_are_named() -> None:
    no_disk = of_disk(None)
    assert "has no disk" in no_disk.unpredicted[0].reason
    nvme = replace(HARDWARE, files={**HARDWARE.files, "bootorder": b"/pci@i0cf8/nvme@1\0"})
    assert "boot options for the device" in of_disk(None, machine=nvme).unpredicted[0].reason
    other = replace(HARDWARE, functions=())
    assert "no virtio disk" in of_disk(None, machine=other).unpredicted[0].reason
    elsewhere = replace(HARDWARE, td_cpu=False)
    assert "names the CPU" in of_disk(None, machine=elsewhere).unpredicted[0].reason


def test_a_disk_with_fat_makes_the_first_exit_fail_also_for_a_kernel_from_qemu(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel())
    options = launch("-kernel", str(tmp_path / "vmlinuz"))
    prediction = predict(options, firmware_images.firmware(), HARDWARE, disk(tmp_path))
    assert digests(prediction, "rtmr1")[-3] == sha384(b"Exit Boot Services Returned with Failure")
    (tmp_path / "empty").write_bytes(bytes(1 << 20))
    without = predict(options, firmware_images.firmware(), HARDWARE, tmp_path / "empty")
    assert len(digests(without, "rtmr1")) == len(digests(prediction, "rtmr1")) - 1


def test_variables_on_the_disk_count_for_a_firmware_without_secure_boot(tmp_path: Path) -> None:
    path = disk(tmp_path, {"NvVars": b"variables"})
    label = firmware_images.wide("SecureBootConfigDxe")
    plain = [file for file in firmware_images.dxe_files() if label not in file]
    prediction = of_disk(path, firmware_images.firmware(files=plain))
    assert any("NvVars" in event.reason for event in prediction.unpredicted)
    assert not any("NvVars" in event.reason for event in of_disk(path).unpredicted)


def test_a_firmware_without_a_release_is_taken_for_the_nearest(tmp_path: Path) -> None:
    unnamed = firmware_images.firmware(files=firmware_images.dxe_files(version="mine"))
    guess = of_disk(disk(tmp_path), unnamed).guess
    assert guess.startswith("firmware.fd does not say which release of edk2 it is")
    assert re.search(r"taken for edk2-stable20\d{4}\b", guess)
    assert of_disk(disk(tmp_path)).guess == ""


def test_the_release_of_a_firmware_that_does_not_say_it_can_be_given(tmp_path: Path) -> None:
    """The register of the separator depends on it, which nothing in the image shows."""
    label = firmware_images.wide("SmbiosMeasurementDxe")
    bds = firmware_images.file(firmware_images.BDS, label="BdsDxe")
    plain = [bds, *(file for file in firmware_images.dxe_files("mine")[1:] if label not in file)]
    firmware = firmware_images.firmware(
        files=[one for one in plain if firmware_images.wide("Fat") not in one]
    )
    guessed = of_disk(disk(tmp_path), firmware)
    assert guessed.guess.endswith(
        "edk2-stable202411; edk2-stable202302 to 202408 look the same and measure otherwise (--edk2 RELEASE)"
    )
    told = predict(launch(), firmware, HARDWARE, disk(tmp_path), release="202405")
    assert told.guess == ""
    for prediction, registers in ((told, ["rtmr0", "rtmr0"]), (guessed, ["rtmr0", "rtmr1"])):
        separators = [one.register for one in prediction.events if one.type == event_log.EV_SEPARATOR]
        assert separators == registers
    with pytest.raises(UsageError, match="it is of edk2-stable202608, not of edk2-stable202405"):
        predict(launch(), firmware_images.firmware(), HARDWARE, None, release="202405")
    assert predict(launch(), firmware_images.firmware(), HARDWARE, None, release="202608").guess == ""


def test_a_firmware_that_measures_nothing_leaves_zeros() -> None:
    silent = firmware_images.firmware(files=[firmware_images.file(firmware_images.BDS)])
    prediction = of_disk(None, silent)
    assert prediction.events == ()
    assert [prediction.registers[name] for name in ("rtmr0", "rtmr1", "rtmr2")] == [bytes(48)] * 3


def test_a_shell_is_a_boot_option_but_not_known_to_be_one_under_secure_boot(tmp_path: Path) -> None:
    shell = firmware_images.file("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1", kind=9)
    files = [*firmware_images.dxe_files(), shell]
    with_shell = of_disk(disk(tmp_path), firmware_images.firmware(files=files))
    assert with_shell.unpredicted == ()
    assert any("Boot0002" in event.meaning for event in with_shell.events)
    key = [firmware_images.variable("PK", b"key")]
    enforced = of_disk(disk(tmp_path), firmware_images.firmware(files=files, variables=key))
    assert any("firmware with a shell" in event.reason for event in enforced.unpredicted)


def test_a_firmware_that_starts_no_td_is_refused() -> None:
    with pytest.raises(MalformedError, match="no TD can start with"):
        of_disk(None, firmware_images.firmware(metadata=False))


MENU = """set timeout=1
if [ -s $prefix/grubenv ]; then load_env; fi
function f { for i in a b; do set x=$i; done; }
menuentry One --id a { f; linux /vmlinuz root=x "$x"; initrd /initrd; }
"""
BOOTING: tuple[disks.Tree, ...] = (
    of_grub(CONFIG),
    of_grub(f"search --fs-uuid --set=root {disks.ROOT_UUID}\n{MENU}"),
    {"EFI": {"BOOT": {"BOOTX64.EFI": systemd_boot()}}, **of_systemd_boot(kernel())},
    {"EFI": {"BOOT": {"BOOTX64.EFI": unified_program()}}},
)


@functools.cache
def booting(number: int) -> tuple[bytes, list[int]]:
    """A disk that boots, and where in it is something besides the partition table."""
    data = disks.disk(BOOTING[number], {"vmlinuz": kernel(), "initrd": b"initrd"})
    return data, [at for at, value in enumerate(data) if value and at >= disks.ESP_START]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_damaged_on_a_disk_is_predicted_or_named(tmp_path: Path, data: st.DataObject) -> None:
    whole, places = booting(data.draw(st.integers(0, len(BOOTING) - 1)))
    changed = bytearray(whole)
    for at in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=5)):
        changed[at] = data.draw(st.sampled_from((0, 1, 10, 32, 127, 128, 255)))
    path = tmp_path / "damaged.raw"
    path.write_bytes(changed)
    prediction = of_disk(path)
    assert prediction.events
    assert all(event.reason.startswith(f"disk image {path}: ") for event in prediction.unpredicted)
