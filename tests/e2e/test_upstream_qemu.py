"""The command line of a hardware TD, carried by upstream QEMU through its whole TD build.

The QEMU is the distribution's, from a private root; the KVM is `fake_kvm/`, which has TDX. No guest runs, so
nothing here was run on hardware: what is shown is that QEMU takes the command line, which TD it asks KVM for,
and which pages it would have measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.abi import td_hob, tdvf
from tdxstack.cli.edge import surroundings
from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.firmware.find import open_image
from tdxstack.machine.pinning import pin_threads
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.qemu_lacks import check_qemu
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import parse_spec
from tdxstack.machine.spec_parts import Kind, Td
from tdxstack.machine.spec_values import UnixAddress
from tdxstack.machine.stopped import Launch
from tdxstack.machine.store import MachineFiles
from tdxstack.measurement.mrtd import mrtd
from tdxstack.platform import Platform
from tdxstack.prediction.hardware import SMBIOS_TABLES, hardware
from tdxstack.qemu.abilities import ask
from tdxstack.qemu.kvm_probe import why_no_kvm
from tdxstack.qemu.monitor import Monitor, connect
from tdxstack.testing.runner import Tdx
from tdxstack.toolbox.apt import extract
from tdxstack.workflows.workshop import Workshop

pytestmark = pytest.mark.e2e

SECONDS = 60
PAGE = 4096
CHUNK = 256
TDX_VM = "5"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
SEPT_VE_DISABLE, PKS = 1 << 28, 1 << 30
TD = MachineSpec(name="td")


async def nothing(_monitor: Monitor) -> None:
    """Of a machine that is only built."""


Step = Callable[[Monitor], Awaitable[None]]


@dataclass(frozen=True)
class Upstream:
    """Upstream QEMU over the fake KVM, the firmware, and a directory for one test."""

    qemu: tuple[str, ...]
    firmware: Path
    directory: Path

    @property
    def trace_file(self) -> Path:
        return self.directory / "trace"

    @property
    def placement(self) -> Placement:
        return Placement(
            platform=Platform.HARDWARE,
            qemu=self.qemu,
            firmware=self.firmware,
            authorized_key="ssh-ed25519 AAAA tdx",
            quote_service=UnixAddress(self.directory / "qgs"),
        )

    def argv(self, spec: MachineSpec, **placement: Any) -> list[str]:
        """The product's command line, with a machine that stays stopped."""
        files = self.files
        files.authorized_key.write_text(self.placement.authorized_key)
        return [*build_qemu_command(spec, replace(self.placement, **placement), files), "-S"]

    @property
    def files(self) -> MachineFiles:
        return MachineFiles(self.directory, self.directory)

    def start(self, argv: list[str], **environment: str) -> subprocess.Popen[str]:
        self.trace_file.unlink(missing_ok=True)
        return subprocess.Popen(
            argv,
            env={"FAKE_KVM_TRACE": str(self.trace_file), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def build(self, spec: MachineSpec, then: Step = nothing, **placement: Any) -> list[Call]:
        """Let QEMU build the TD, do `then` and end it again; return what it asked of KVM."""
        process = self.start(self.argv(spec, **placement))
        try:
            while not self.files.monitor.exists():
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.02)
            status = asyncio.run(_status_then_quit(self.files.monitor, then))
            output = process.communicate(timeout=SECONDS)[0]
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, status) == (0, "prelaunch"), output
        self.files.monitor.unlink(missing_ok=True)
        if not self.trace_file.exists():
            return []
        return [Call.parse(line) for line in self.trace_file.read_text().splitlines()]

    def refusal(self, argv: list[str], **environment: str) -> str:
        """What QEMU says when it refuses `argv`."""
        process = self.start(argv, **environment)
        try:
            output = process.communicate(timeout=SECONDS)[0]
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 1, output
        return output


@dataclass(frozen=True)
class Call:
    """One line of the trace."""

    name: str
    values: dict[str, str]

    @classmethod
    def parse(cls, line: str) -> Call:
        name, *pairs = line.split()
        return cls(name, dict(pair.split("=", 1) for pair in pairs))


async def _status_then_quit(socket: Path, then: Step) -> str:
    async with connect(socket) as monitor:
        status = await monitor.execute("query-status")
        await then(monitor)
        await monitor.execute("quit")
    return str(status["status"])


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    return Workshop(surroundings())


@pytest.fixture(scope="module")
def program(workshop: Workshop, emulator_binary: Path) -> Iterator[tuple[str, ...]]:
    """Upstream QEMU with the fake KVM in front; the compiler is there since the emulator needs it too."""
    with tempfile.TemporaryDirectory(prefix="tdx-fk-") as name:
        place = Path(name)
        apt = workshop.apt(lambda archive: archive.unstable)
        root = extract(apt.fetch(("qemu-system-x86",)), place / "root")
        source = Path(__file__).parent / "fake_kvm/fake_kvm.c"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", place / "fake_kvm.so", source],
            check=True,
        )
        loader = (str(root / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(root / LIBRARIES))
        data = tuple(word for part in ("qemu", "seabios") for word in ("-L", str(root / "usr/share" / part)))
        yield (
            *(*loader, "--preload", str(place / "fake_kvm.so")),
            *(str(root / "usr/bin/qemu-system-x86_64"), *data),
        )


@pytest.fixture
def upstream(workshop: Workshop, program: tuple[str, ...]) -> Iterator[Upstream]:
    with tempfile.TemporaryDirectory(prefix="tdx-fk-") as name:
        upstream = Upstream(program, workshop.firmware().path, Path(name))
        qemu_img = workshop.toolbox.program("qemu-img")
        create = qemu_img.argv("create", "-q", "-f", "qcow2", upstream.files.disk, "64M")
        subprocess.run(create, check=True)
        yield upstream


def test_what_a_td_is_told_can_be_asked_where_none_starts(
    upstream: Upstream, tdx: Tdx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ACPI tables; the SMBIOS table names the CPU, which is not asked without a TD."""
    wrapper = upstream.directory / "qemu-system-x86_64"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(upstream.qemu)} "$@"\n')
    wrapper.chmod(0o755)
    wrapped = replace(upstream, qemu=(str(wrapper),))
    launch = Launch.parse(wrapped.argv(TD.changed(platform=Platform.HARDWARE)))
    td, other = (
        hardware(launch, upstream.directory / "cache", confidential=confidential)
        for confidential in (True, False)
    )
    unlike = {name for name, data in td.files.items() if other.files[name] != data}
    assert unlike == {SMBIOS_TABLES}
    monkeypatch.setenv("PATH", str(upstream.directory), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_KVM_WITHOUT_TDX", "1")
    document = json.loads(tdx.run("predict", "--platform", "hardware", "--json", code=1).stdout)
    assert document["emulated"] is False
    assert [name for name, value in document["registers"].items() if value is None] == ["rtmr0"]
    (open_,) = [event for event in document["events"] if event["digest"] is None]
    assert "names the CPU that the TD has" in open_["reason"]


def test_asks_for_the_td_that_the_specification_describes(upstream: Upstream) -> None:
    td = Td(mrconfigid=b"\xc0" * 48, mrowner=b"\x0e" * 48, mrownerconfig=bytes(range(48)))
    calls = upstream.build(TD.changed(vcpus=4, td=td))

    assert [call.values["type"] for call in calls if call.name == "create_vm"] == [TDX_VM]
    (init,) = [call.values for call in calls if call.name == "init_vm"]
    assert int(init["attributes"], 16) == SEPT_VE_DISABLE
    assert bytes.fromhex(init["mrconfigid"]) == td.mrconfigid
    assert bytes.fromhex(init["mrowner"]) == td.mrowner
    assert bytes.fromhex(init["mrownerconfig"]) == td.mrownerconfig
    vcpus = [int(call.values["rcx"], 16) for call in calls if call.name == "init_vcpu"]
    hob = tdvf.parse_image(upstream.firmware.read_bytes()).td_hob.address
    assert vcpus == [hob] * 4
    assert calls[-1].name == "finalize_vm"
    assert not [call for call in calls if call.name in ("unknown", "run")]


@pytest.mark.parametrize("memory_mib", [2048, 3584, 8192])
def test_measures_what_we_measure(upstream: Upstream, memory_mib: int) -> None:
    """MRTD and the TD HOB of the pages that QEMU would have added are those that the library computes."""
    calls = upstream.build(TD.changed(memory=memory_mib))
    regions = [call.values for call in calls if call.name == "init_mem_region"]
    firmware = upstream.firmware.read_bytes()
    metadata = tdvf.parse_image(firmware)

    digest = hashlib.sha384()
    pages: dict[int, bytes] = {}
    for region in regions:
        first = int(region["gpa"], 16)
        data = upstream.trace_file.with_name(f"trace.{region['file']}").read_bytes()
        assert len(data) == int(region["pages"]) * PAGE
        pages[first] = data
        for page in range(first, first + len(data), PAGE):
            digest.update(b"MEM.PAGE.ADD".ljust(16, b"\0") + page.to_bytes(8, "little").ljust(112, b"\0"))
            for chunk in range(page, page + PAGE, CHUNK) if region["measured"] == "1" else ():
                digest.update(b"MR.EXTEND".ljust(16, b"\0") + chunk.to_bytes(8, "little").ljust(112, b"\0"))
                digest.update(data[chunk - first : chunk - first + CHUNK])
    assert digest.digest() == mrtd(firmware).single_pass

    list_ = td_hob.build(metadata, memory_mib << 20).to_bytes()
    assert pages[metadata.td_hob.address][: len(list_)] == list_


async def reset(monitor: Monitor) -> None:
    await monitor.execute("system_reset")


def test_a_td_is_built_again_when_it_is_reset(upstream: Upstream, program: tuple[str, ...]) -> None:
    """QEMU says that it can, and does: the machine is not started with -no-reboot then."""
    assert ask(program).td_can_reset
    assert "-no-reboot" in upstream.argv(TD)
    assert "-no-reboot" not in upstream.argv(TD, td_can_reset=True)
    calls = upstream.build(TD, reset, td_can_reset=True)
    assert [call.name for call in calls].count("finalize_vm") == 2
    assert [call.values["type"] for call in calls if call.name == "create_vm"] == [TDX_VM, TDX_VM]


RICH = """
name: td
vcpus: 4
topology: {sockets: 2, cores: 2}
cpu: {tsc_frequency: 1000000000, features: {pmu: off}}
memory: 3G
numa:
  - {vcpus: 0-1, memory: 1G, host_nodes: 0}
  - {vcpus: 2-3, memory: 2G}
uki: {image: kernel.efi}
disks: [{path: data.raw, overlay: off}, {path: tools.raw, read_only: on, overlay: off, serial: tools}]
nics: [{forwards: ["0:80", "0:53/udp"]}, {mac: 52:54:00:00:00:09}]
console: virtio
guest_agent: on
td: {pks: on, quote_service: "vsock:2:4050"}
smbios: {system: {manufacturer: "Example, Inc."}, oem_strings: ["a,b", c]}
fw_cfg: [{name: opt/com.example/text, text: "a,b"}, {name: opt/com.example/file, file: kernel.efi}]
"""


def test_takes_all_that_a_td_may_have(upstream: Upstream, program: tuple[str, ...]) -> None:
    """All but devices of the host that are not on every one: vsock, taps, bridges, VFIO."""
    for name in ("data.raw", "tools.raw"):
        (upstream.directory / name).write_bytes(bytes(1 << 20))
    (upstream.directory / "kernel.efi").write_bytes(b"MZ" + bytes(1 << 16))
    spec = parse_spec(RICH.encode(), upstream.directory)
    check_qemu(spec, Platform.HARDWARE, ask(program))
    calls = upstream.build(spec)
    (init,) = [call.values for call in calls if call.name == "init_vm"]
    assert int(init["attributes"], 16) == SEPT_VE_DISABLE | PKS
    assert [call.name for call in calls].count("init_vcpu") == 4
    assert calls[-1].name == "finalize_vm"


def test_vcpus_run_where_they_are_bound(upstream: Upstream) -> None:
    cpu = max(os.sched_getaffinity(0))
    bound: list[set[int]] = []

    async def bind(monitor: Monitor) -> None:
        threads = {vcpu["cpu-index"]: vcpu["thread-id"] for vcpu in await monitor.execute("query-cpus-fast")}
        pin_threads(threads, {1: (cpu,)})
        bound.append(os.sched_getaffinity(threads[1]))
        with pytest.raises(UnavailableError, match=r"vCPU 0 cannot be bound to the host's CPU 4095: "):
            pin_threads(threads, {0: (4095,)})

    upstream.build(TD, bind)
    assert bound == [{cpu}]


ORDINARY = {
    "efi in flash": "kind: efi, firmware: code.fd, firmware_variables: vars.fd, console: virtio",
    "efi": "kind: efi, cpu: {model: Skylake-Server, tsc_frequency: 1234567890}, pic: off, smm: on",
    "legacy": "kind: legacy, numa: [{vcpus: 0, memory: 512M}, {vcpus: 1, memory: 512M}], memory: 1G",
    "legacy pc": "kind: legacy, machine_type: pc, diskless: on, nics: []",
}


@pytest.mark.parametrize("case", ORDINARY)
def test_takes_machines_that_are_no_tds(upstream: Upstream, case: str) -> None:
    for name in ("code.fd", "vars.fd"):
        (upstream.directory / name).write_bytes(bytes(1 << 20))
    spec = parse_spec(f"{{name: td, {ORDINARY[case]}}}".encode(), upstream.directory)
    firmware = None if spec.kind is Kind.LEGACY else spec.firmware or upstream.firmware
    upstream.build(
        spec,
        platform=Platform.EMULATED,
        firmware=firmware,
        variables=spec.firmware_variables,
        quote_service=None,
    )


def test_firmware_that_runs_is_told_from_a_kvm_that_does_not_run_it(upstream: Upstream) -> None:
    """The fake KVM runs nothing. As the control, the same firmware on TCG, which runs it."""
    assert why_no_kvm(upstream.qemu)
    stand_in = upstream.directory / "on-tcg"
    script = (
        "import os, sys\nwords = [{'kvm': 'tcg', 'host': 'max'}.get(word, word) for word in sys.argv[1:]]\n"
    )
    stand_in.write_text(f"{script}os.execv(words[0], words)\n")
    assert why_no_kvm((sys.executable, str(stand_in), *upstream.qemu)) == ""


REFUSED = {
    "named CPU model": ("-cpu", "host", "Skylake-Server", "Named cpu model is not supported for TDX yet!"),
    "TSC of odd frequency": ("-cpu", "host", "host,tsc-frequency=1010000000", "must be multiple of 25MHz"),
    "slow TSC": ("-cpu", "host", "host,tsc-frequency=75000000", "between [100000, 10000000] kHz"),
    "fast TSC": ("-cpu", "host", "host,tsc-frequency=10025000000", "between [100000, 10000000] kHz"),
    "irqchip in KVM": ("-machine", "irqchip=split", "irqchip=on", "requires kernel_irqchip to be split"),
    "irqchip in QEMU": ("-machine", "irqchip=split", "irqchip=off", "requires kernel_irqchip to be split"),
    "PIC": ("-machine", "q35", "q35,pic=on", "TDX VM doesn't support PIC"),
    "SMM": ("-machine", "q35", "q35,smm=on", "TDX VM doesn't support SMM"),
    "DEBUG": ("-object", "268435456", "268435457", "Some QEMU unsupported TD attribute bits"),
    "unknown attribute": ("-object", "268435456", "16", "Invalid attributes 0x10"),
    "short MRCONFIGID": ("-object", "A" * 64, "AAAA", "was 3 bytes, expected 48 bytes"),
    "MRCONFIGID that is no base64": ("-object", "AAAA", "A*AA", "invalid characters"),
    "object that is not there": ("-object", '"id": "tdx0"', '"id": "other"', "Device 'tdx0' not found"),
    "TCG": ("-accel", "kvm", "tcg", "cannot set up private guest memory for tdx-guest: KVM required"),
}
"""The option to change, what it says and what it is made to say, and QEMU's answer."""

OURS = {
    "named CPU model": ("cpu: {model: Skylake-Server}", "cpu.model: "),
    "TSC of odd frequency": ("cpu: {tsc_frequency: 1010000000}", "cpu.tsc_frequency: "),
    "slow TSC": ("cpu: {tsc_frequency: 75000000}", "cpu.tsc_frequency: "),
    "fast TSC": ("cpu: {tsc_frequency: 10025000000}", "cpu.tsc_frequency: "),
    "irqchip in KVM": ("kernel_irqchip: on", "kernel_irqchip: there is no such key"),
    "irqchip in QEMU": ("kernel_irqchip: off", "kernel_irqchip: there is no such key"),
    "PIC": ("pic: on", "pic: "),
    "SMM": ("smm: on", "smm: "),
    "DEBUG": ("td: {debug: on}", "td.debug: "),
    "unknown attribute": ("td: {attributes: 16}", "td.attributes: there is no such key"),
    "short MRCONFIGID": ("td: {mrconfigid: AAAA}", "td.mrconfigid: 2 bytes"),
    "MRCONFIGID that is no base64": (f"td: {{mrconfigid: 'A*{'A' * 62}'}}", "td.mrconfigid: "),
    "flash": ("firmware: code.fd, firmware_variables: vars.fd", "firmware_variables: "),
}
"""What a specification would have to say for it, and how we refuse that."""


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(upstream: Upstream, case: str) -> None:
    """One option changed, and QEMU refuses the machine, as our own checks assume that it does."""
    option, old, new, message = REFUSED[case]
    argv = upstream.argv(TD)
    at = argv.index(option) + 1
    assert old in argv[at]
    argv[at] = argv[at].replace(old, new, 1)
    assert message in upstream.refusal(argv)


@pytest.mark.parametrize("case", OURS)
def test_our_refusal_comes_first(case: str) -> None:
    text, problem = OURS[case]
    with pytest.raises(MalformedError) as caught:
        parse_spec(f"{{platform: hardware, {text}}}".encode(), Path("/"))
    assert caught.value.message.startswith(f"machine: {problem}")


def test_what_no_specification_can_say() -> None:
    """The object is always named as the machine has it, and a TD on TCG needs the emulator's silicon."""
    assert REFUSED.keys() - OURS.keys() == {"object that is not there", "TCG"}


@pytest.mark.parametrize(
    ("firmware", "message"),
    [
        ("absent.fd", "could not load PC BIOS"),
        ("odd.fd", "could not load PC BIOS"),
        ("plain.fd", "Cannot find TDX_METADATA_OFFSET_GUID"),
    ],
)
def test_refuses_firmware(upstream: Upstream, firmware: str, message: str) -> None:
    """A file that is not there, one that is no multiple of 64 KiB, and one without TDVF metadata."""
    path = upstream.directory / firmware
    (upstream.directory / "odd.fd").write_bytes(bytes(0x10001))
    (upstream.directory / "plain.fd").write_bytes(bytes(0x40000))
    assert message in upstream.refusal(upstream.argv(TD, firmware=path))
    with pytest.raises((MalformedError, UnavailableError)):
        open_image(path)


def test_refuses_a_bios(upstream: Upstream) -> None:
    argv = upstream.argv(TD)
    at = argv.index("-bios")
    output = upstream.refusal([*argv[:at], *argv[at + 2 :]])
    assert "Cannot find TDX_METADATA_OFFSET_GUID" in output
    assert "failed to parse TDVF for TDX VM" in output
    with pytest.raises(UsageError, match="needs a TDVF"):
        upstream.argv(TD, firmware=None)


def test_refuses_flash(upstream: Upstream) -> None:
    argv = upstream.argv(TD)
    at = argv.index("-bios")
    argv[at : at + 2] = ["-drive", f"if=pflash,format=raw,readonly=on,file={upstream.firmware}"]
    assert "pflash with kvm requires KVM readonly memory support" in upstream.refusal(argv)


def test_refuses_a_kvm_without_tdx(upstream: Upstream) -> None:
    output = upstream.refusal(upstream.argv(TD), FAKE_KVM_WITHOUT_TDX="1")
    assert "vm-type TDX not supported by KVM" in output
