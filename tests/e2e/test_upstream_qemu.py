"""The command line of a hardware TD, carried by upstream QEMU through its whole TD build.

The QEMU is the distribution's, from a private root; the KVM is `fake_kvm/`, which has TDX. No guest runs, so
nothing here was run on hardware: what is shown is that QEMU takes the command line, which TD it asks KVM for,
and which pages it would have measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tdxstack.abi import td_hob, tdvf
from tdxstack.cli.edge import surroundings
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Td
from tdxstack.machine.spec_values import UnixAddress
from tdxstack.machine.store import MachineFiles
from tdxstack.measurement.mrtd import mrtd
from tdxstack.platform import Platform
from tdxstack.qemu.monitor import connect
from tdxstack.toolbox.apt import extract
from tdxstack.workflows.workshop import Workshop

pytestmark = pytest.mark.e2e

SECONDS = 60
PAGE = 4096
CHUNK = 256
TDX_VM = "5"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
SEPT_VE_DISABLE = 1 << 28
TD = MachineSpec(name="td")


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

    def argv(self, spec: MachineSpec) -> list[str]:
        """The product's command line, with a machine that stays stopped."""
        files = self.files
        files.authorized_key.write_text(self.placement.authorized_key)
        return [*build_qemu_command(spec, self.placement, files), "-S"]

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

    def build(self, spec: MachineSpec) -> list[Call]:
        """Let QEMU build the TD and end it again; return what it asked of KVM."""
        process = self.start(self.argv(spec))
        try:
            while not self.files.monitor.exists():
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.02)
            status = asyncio.run(_status_then_quit(self.files.monitor))
            output = process.communicate(timeout=SECONDS)[0]
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, status) == (0, "prelaunch"), output
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


async def _status_then_quit(socket: Path) -> str:
    async with connect(socket) as monitor:
        status = await monitor.execute("query-status")
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


REFUSED = {
    "named CPU model": ("-cpu", "host", "Skylake-Server", "Named cpu model is not supported for TDX yet!"),
    "irqchip in KVM": ("-machine", "irqchip=split", "irqchip=on", "requires kernel_irqchip to be split"),
    "irqchip in QEMU": ("-machine", "irqchip=split", "irqchip=off", "requires kernel_irqchip to be split"),
    "PIC": ("-machine", "q35", "q35,pic=on", "TDX VM doesn't support PIC"),
    "SMM": ("-machine", "q35", "q35,smm=on", "TDX VM doesn't support SMM"),
    "DEBUG": ("-object", "268435456", "268435457", "Some QEMU unsupported TD attribute bits"),
    "unknown attribute": ("-object", "268435456", "16", "Invalid attributes 0x10"),
    "short MRCONFIGID": ("-object", "A" * 64, "AAAA", "was 3 bytes, expected 48 bytes"),
    "MRCONFIGID that is no base64": ("-object", "AAAA", "A*AA", "invalid characters"),
    "object that is not there": ("-object", '"id": "tdx0"', '"id": "other"', "Device 'tdx0' not found"),
    "TCG": ("-accel", "kvm", "tcg", "KVM required"),
}
"""The option to change, what it says and what it is made to say, and QEMU's answer."""


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(upstream: Upstream, case: str) -> None:
    """One option changed, and QEMU refuses the machine, as our own checks assume that it does."""
    option, old, new, message = REFUSED[case]
    argv = upstream.argv(TD)
    at = argv.index(option) + 1
    assert old in argv[at]
    argv[at] = argv[at].replace(old, new, 1)
    assert message in upstream.refusal(argv)


@pytest.mark.parametrize(
    ("firmware", "message"),
    [
        ("absent.fd", "could not load PC BIOS"),
        ("odd.fd", "could not load PC BIOS"),
        ("plain.fd", "TDX_METADATA"),
    ],
)
def test_refuses_firmware(upstream: Upstream, firmware: str, message: str) -> None:
    """A file that is not there, one that is no multiple of 64 KiB, and one without TDVF metadata."""
    (upstream.directory / "odd.fd").write_bytes(bytes(0x10001))
    (upstream.directory / "plain.fd").write_bytes(bytes(0x40000))
    argv = replace(upstream, firmware=upstream.directory / firmware).argv(TD)
    assert message in upstream.refusal(argv)


def test_refuses_flash(upstream: Upstream) -> None:
    argv = upstream.argv(TD)
    at = argv.index("-bios")
    argv[at : at + 2] = ["-drive", f"if=pflash,format=raw,readonly=on,file={upstream.firmware}"]
    assert "pflash with kvm requires KVM readonly memory support" in upstream.refusal(argv)


def test_refuses_a_kvm_without_tdx(upstream: Upstream) -> None:
    output = upstream.refusal(upstream.argv(TD), FAKE_KVM_WITHOUT_TDX="1")
    assert "vm-type TDX not supported by KVM" in output
