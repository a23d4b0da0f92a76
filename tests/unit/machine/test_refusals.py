"""Combinations that QEMU, libvirt or TDX refuse: each is refused first, at its field, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import MalformedError
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import parse_spec

REFUSED = {
    "firmware_variables: v, firmware: f": "firmware_variables: a TD has no flash",
    "cpu: {model: Skylake-Server}": "cpu.model: a TD has the CPU of its host, ",
    "machine_type: pc-i440fx-10.1": "machine_type: a TD is a q35 machine",
    "smm: on": "smm: a TD has no system management mode",
    "pic: on": "pic: a TD has no legacy interrupt controller",
    "huge_pages: 1G": "huge_pages: private memory of a TD comes in pages of 4 KiB only",
    "tpm: on": "tpm: what the VMM emulates, such as a TPM, is nothing that a TD could trust",
    "sgx: [{size: 64M}]": "sgx: a TD cannot run SGX enclaves",
    "cpu: {tsc_frequency: 99999999}": "cpu.tsc_frequency: 99999999 Hz: the TSC of a TD runs at 100 MHz",
    "cpu: {tsc_frequency: 10025000000}": "cpu.tsc_frequency: 10025000000 Hz: the TSC of a TD runs at 100 MHz",
    "cpu: {tsc_frequency: 1010000000}": "cpu.tsc_frequency: 1010000000 Hz: the TSC of a TD runs at a",
    "platform: hardware, td: {debug: on}": "td.debug: upstream QEMU refuses the DEBUG attribute of a TD",
    "platform: hardware, emulation: {ve: on}": "emulation: is for platform emulated",
    "platform: emulated, td: {perfmon: on}": "td.perfmon: the emulator has no PERFMON attribute",
    "platform: emulated, cpu: {model: host}": "cpu.model: there is no host CPU on platform emulated",
    "platform: emulated, kind: efi, sgx: [{size: 1M}]": "sgx: SGX needs KVM",
    "kind: efi, td: {debug: on}": "td: is about a TD, and the machine is of kind efi",
    "kind: legacy, emulation: {sept: log}": "emulation: is about a TD, and the machine is of kind legacy",
    "kind: legacy, uki: {image: u}": "uki: a unified kernel image is an EFI program",
    "kind: legacy, firmware: f, firmware_variables: v": "firmware_variables: a BIOS has no EFI variables",
    "kind: efi, firmware_variables: v": "firmware: must be said with firmware_variables",
    "kind: efi, smm: on, firmware: f": "smm: protects variables in flash, and firmware_variables says none",
    "uki: {image: u}, direct_kernel: {kernel: k}": "uki: there is a direct_kernel too",
    "diskless: on, image: i": "image: the machine is diskless",
    "direct_kernel: {kernel: k, set: {a: 1}, remove: [a]}": "direct_kernel.set.a: is removed too",
    "direct_kernel: {kernel: k, remove: ['a b']}": "direct_kernel: 'a b' cannot be the name of a field",
    'direct_kernel: {kernel: k, command_line: "a\\nb"}': "direct_kernel.command_line: more than one line",
    'direct_kernel: {kernel: k, command_line: "a\\x01b"}': "direct_kernel.command_line: has a control char",
    'firmware: "a\\x1b"': "firmware: 'a\\x1b' is no path",
    'td: {quote_service: "unix:/a\\x01"}': "td.quote_service: 'unix:/a\\x01' is not unix:/PATH",
    "image: {path: i, overlay: off}": "image.format: must be said of 'i'",
    "disks: [a.raw, {path: b, read_only: on}]": "disks[1].format: must be said of 'b'",
    "disks: [{path: a.raw, serial: s}, {path: b.raw, serial: s}]": "disks: the serial 's' is there twice",
    "disks: [{path: a.raw, overlay: off}, {path: a.raw, overlay: off}]": "disks: a.raw would be",
    "image: {path: a.raw, overlay: off}, disks: [{path: a.raw, overlay: off}]": "disks: a.raw would be",
    "vcpus: 3, topology: {cores: 2}": "topology: 1 sockets of 2 cores of 1 threads are 2 vCPUs, not 3",
    "pinning: {2: 0}": "pinning[2]: there is no such vCPU: they are 0 to 1",
    "pinning: {0: []}": "pinning[0]: no CPU of the host is named",
    "numa: [{vcpus: 0-1, memory: 1G}]": "numa: the nodes have 1024 MiB, and the machine 2048",
    "numa: [{vcpus: 0, memory: 2G}]": "numa: each of the vCPUs 0 to 1 must be in one node",
    "numa: [{vcpus: 0-1, memory: 1G}, {vcpus: 1, memory: 1G}]": "numa: each of the vCPUs 0 to 1 must be",
    "memory: 2049, kind: efi, huge_pages: 2M": "huge_pages: 2049 MiB are no number of pages of 2M",
    "kind: efi, sgx: [{size: 1M, node: 1}]": "sgx[0].node: there is no NUMA node 1",
    "nics: [{type: tap}]": "nics[0].interface: must be said of a network of type tap",
    "nics: [{type: bridge}]": "nics[0].bridge: must be said of a network of type bridge",
    "nics: [{interface: tap0}]": "nics[0].interface: is for networks of type tap, and this one is user",
    "nics: [{type: tap, interface: t, forwards: ['1:2']}]": "nics[0].forwards: is for networks of type user",
    "nics: [{mac: '52:54:00:00:00:01'}, {mac: '52:54:00:00:00:01'}]": "nics: the MAC address 52:54",
    "nics: [{forwards: ['300.0.0.1:80:80']}]": "nics[0].forwards[0].address: '300.0.0.1' is no IPv4 address",
    "machine_type: pc-q35": "machine_type: String should match pattern",
    "image: {path: a.raw, serial: s}, disks: [{path: b.raw, serial: s}]": "disks: the serial 's'",
    "nics: [{forwards: ['80:80', '80:81']}]": "nics: the TCP port 80 of the host is forwarded twice",
    "smbios: {system: {colour: red}}": "smbios.system.colour: QEMU knows manufacturer, product",
    "fw_cfg: [{name: opt/a}]": "fw_cfg[0]: an item is either a text or a file",
    "fw_cfg: [{name: opt/a, text: t, file: f}]": "fw_cfg[0]: an item is either a text or a file",
    "fw_cfg: [{name: opt/org.tdxstack/a, text: t}]": "fw_cfg[0].name: opt/org.tdxstack/ is for tdx's own",
    "fw_cfg: [{name: opt/a, text: t}, {name: opt/a, text: u}]": "fw_cfg: the item opt/a is there twice",
    "fw_cfg: [{name: etc/acpi, text: t}]": "fw_cfg[0].name: String should match pattern",
    "vfio: ['0000:01:00.0', '01:00.0']": "vfio: the device 01:00.0 is there twice",
    "vsock: {cid: 2}": "vsock.cid: Input should be greater than or equal to 3",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refuses(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_spec(f"{{{text}}}".encode(), Path())
    assert REFUSED[text] in caught.value.message
    assert caught.value.message.startswith("machine: ")


@pytest.mark.parametrize(
    "text",
    [
        "cpu: {tsc_frequency: 100000000}",
        "cpu: {tsc_frequency: 10000000000}",
        "cpu: {model: host}",
        "platform: emulated, td: {debug: on}",
        "platform: hardware, td: {perfmon: on, pks: on}",
        "kind: efi, cpu: {model: Skylake-Server, tsc_frequency: 1}",
        "kind: legacy, machine_type: pc, huge_pages: 2M, tpm: on, sgx: [{size: 64M, node: 0}]",
        "nics: [{forwards: ['80:80', '80:80/udp', '0:80', '0:81']}]",
        "image: {path: base, format: raw, overlay: off}",
        "disks: [a, a]",
    ],
)
def test_what_is_possible_is_not_refused(text: str) -> None:
    assert isinstance(parse_spec(f"{{{text}}}".encode(), Path()), MachineSpec)
