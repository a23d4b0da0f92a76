"""Specifications of machines: what is read, and that everything wrong is told at once, with its place."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import parse_spec, read_spec
from tdxstack.machine.spec_parts import Cpu, Disk, DiskFormat, Forward, Kind, Nic, Td, Topology
from tdxstack.machine.spec_values import NoService, UnixAddress, VsockAddress
from tdxstack.platform import Platform

HERE = Path("/specs")


def problems(text: str) -> list[str]:
    with pytest.raises(MalformedError) as caught:
        parse_spec(text.encode(), HERE)
    return caught.value.message.removeprefix("machine: ").split("; ")


def test_an_empty_file_is_the_machine_of_tdx_up() -> None:
    assert parse_spec(b"", HERE) == MachineSpec()
    spec = MachineSpec()
    assert (spec.kind, spec.vcpus, spec.memory, spec.nics) == (Kind.TD, 2, 2048, (Nic(),))


def test_reads_what_people_write() -> None:
    text = f"""
name: web
kind: td
platform: hardware
image: base.qcow2
disks: [data.img, {{path: /isos/tools, format: raw, read_only: true}}]
topology: {{sockets: 2, cores: 2}}
cpu: {{tsc_frequency: 1000000000, features: {{pmu: off}}}}
memory: 4G
numa:
  - {{vcpus: 0-1, memory: 2G, host_nodes: 0}}
  - {{vcpus: "2,3", memory: 2048}}
pinning: {{0: 4-5}}
nics:
  - forwards: ["8080:80", {{host: 0, guest: 53, protocol: udp}}, "0.0.0.0:8443:443"]
    mac: 52:54:00:AB:CD:EF
td:
  mrconfigid: {"ab" * 48}
  mrowner: {base64.b64encode(bytes(range(48))).decode()}
  quote_service: vsock:2:4050
"""
    spec = parse_spec(text.encode(), HERE)
    assert (spec.name, spec.platform) == ("web", Platform.HARDWARE)
    assert spec.image == Disk(path=Path("/specs/base.qcow2"))
    assert [disk.path for disk in spec.disks] == [Path("/specs/data.img"), Path("/isos/tools")]
    assert [disk.known_format for disk in spec.disks] == [DiskFormat.RAW, DiskFormat.RAW]
    assert [disk.has_overlay for disk in spec.disks] == [True, False]
    assert (spec.vcpus, spec.memory) == (4, 4096)
    assert [node.vcpus for node in spec.numa] == [(0, 1), (2, 3)]
    assert (spec.numa[0].host_nodes, spec.pinning) == ((0,), {0: (4, 5)})
    assert spec.cpu == Cpu(tsc_frequency=1_000_000_000, features={"pmu": False})
    assert spec.nics[0].mac == "52:54:00:ab:cd:ef"
    assert spec.nics[0].forwards == (
        Forward(host=8080, guest=80),
        Forward(guest=53, protocol="udp"),
        Forward(host=8443, guest=443, address="0.0.0.0"),
    )
    assert spec.td == Td(
        mrconfigid=b"\xab" * 48, mrowner=bytes(range(48)), quote_service=VsockAddress(2, 4050)
    )


@pytest.mark.parametrize(
    ("text", "address"), [("none", NoService()), ("unix:/run/qgs", UnixAddress(Path("/run/qgs")))]
)
def test_quote_services(text: str, address: object) -> None:
    assert parse_spec(f"td: {{quote_service: '{text}'}}".encode(), HERE).td.quote_service == address


def test_everything_wrong_is_told_at_once_with_its_place() -> None:
    text = """
kind: tdx
vcpus: 0
memory: 2X
colour: red
td: {mrconfigid: abcd, quote_service: tcp:1}
disks: [{read_only: maybe}]
nics: [{mac: 01:00:00:00:00:00, forwards: [x]}]
"""
    told = " | ".join(problems(text))
    for expected in (
        "kind: 'tdx' is not one of td, efi, legacy",
        "vcpus: 0 vCPUs is out of range",
        "memory: '2X' is no size",
        "colour: there is no such key",
        "td.mrconfigid: 2 bytes, where TDX wants 48",
        "td.quote_service: 'tcp:1' is not unix:/PATH, vsock:CID:PORT or none",
        "disks[0].path: Field required",
        "disks[0].read_only: ",
        "nics[0].mac: 01:00:00:00:00:00 is a multicast address",
        "nics[0].forwards[0]: 'x' is not",
    ):
        assert expected in told


def test_all_that_cannot_be_together_is_told_at_once() -> None:
    told = problems("{kind: td, tpm: yes, huge_pages: 2M, smm: on, vcpus: 3, topology: {cores: 2}}")
    assert [line.partition(":")[0] for line in told] == ["smm", "huge_pages", "tpm", "topology"]


def test_python_is_told_the_same() -> None:
    with pytest.raises(MalformedError, match=r"machine: memory: .*; tpm: "):
        MachineSpec.model_validate({"memory": 1, "tpm": "x"})


@pytest.mark.parametrize("name", ["TD", "-td", "td-", "a" * 33, "../td", "t d"])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(MalformedError, match="is not usable"):
        MachineSpec(name=name)


@pytest.mark.parametrize("vcpus", [0, 256])
def test_vcpus_out_of_range_are_refused(vcpus: int) -> None:
    with pytest.raises(MalformedError, match="out of range"):
        MachineSpec(vcpus=vcpus)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(MalformedError, match="511 MiB"):
        MachineSpec(memory=511)


@pytest.mark.parametrize("text", ["2G", "2GiB", "2 GiB", "2048", "2048M"])
def test_sizes(text: str) -> None:
    assert parse_spec(f"memory: {text}".encode(), HERE).memory == 2048


def test_a_digest_of_sha_256_is_not_taken_for_base64() -> None:
    told = problems(f"td: {{mrconfigid: {'ab' * 32}}}")
    assert told == ["td.mrconfigid: 32 bytes, where TDX wants 48 (in hexadecimal or base64)"]


@pytest.mark.parametrize("cpus", ["3-1", "x", "0,0", "", "99999"])
def test_wrong_lists_of_cpus(cpus: str) -> None:
    assert problems(f"pinning: {{0: '{cpus}'}}")[0].startswith("pinning.0: ")


def test_changes_are_checked_too() -> None:
    spec = MachineSpec(name="td", topology=Topology(cores=4))
    assert spec.vcpus == 4
    assert spec.changed(name="other").name == "other"
    with pytest.raises(MalformedError, match="tpm"):
        spec.changed(tpm=True)
    assert spec.changed(kind=Kind.EFI, tpm=True).tpm


def test_a_file_is_read_from_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "td.yaml").write_text("firmware: fw.fd\n")
    assert read_spec(tmp_path / "td.yaml").firmware == tmp_path / "fw.fd"
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_spec(tmp_path / "absent.yaml")
