"""`tdx up`: boot a TD, measure it and prove it."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tdxstack import __version__, interrupts
from tdxstack.abi.tdreport import TD_ATTRIBUTE_SEPT_VE_DISABLE
from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.fetch import Client
from tdxstack.errors import UsageError
from tdxstack.evidence.binding import NONCE_SIZE
from tdxstack.evidence.document import Evidence
from tdxstack.files import write_atomically
from tdxstack.firmware.find import Firmware
from tdxstack.image.built import Image
from tdxstack.machine import control
from tdxstack.machine.control import StopMode
from tdxstack.machine.machine import BOOT_SECONDS, DOWN_SECONDS
from tdxstack.machine.placement import Placement
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Emulation, PageTracking, Td
from tdxstack.machine.ssh import seen_host_key
from tdxstack.machine.starting import start_machine
from tdxstack.machine.store import MachineFiles, MachineState, MachineStore, check_name
from tdxstack.measurement.mrtd import mrtd
from tdxstack.platform import Platform, PlatformChoice, choose_platform
from tdxstack.quoting.pki import Pki, open_pki
from tdxstack.run import Report, silent
from tdxstack.toolbox.release import Release
from tdxstack.verification.boot import BootResult, Expectation, verify_boot
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, TrustAnchor
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.policy import Policy
from tdxstack.verification.result import Status
from tdxstack.workflows.collect import collect_evidence
from tdxstack.workflows.image_kernel import kernel_beside
from tdxstack.workflows.images import find_image
from tdxstack.workflows.machines import Machines, Plan, silicon
from tdxstack.workflows.quote_collateral import (
    CollateralFor,
    collateral_of_file,
    collateral_of_service,
)
from tdxstack.workflows.workshop import Surroundings, Workshop


@dataclass(frozen=True, slots=True)
class UpRequest:
    """What the user asked for; the defaults are the main job."""

    name: str = "td"
    platform: Platform | None = None
    vcpus: int = 2
    memory_mib: int = 2048
    mirror: str = ""
    require_fresh: bool = False
    emulator_version: str = ""
    emulator_source: Path | None = None
    firmware: Path | None = None
    image: str = ""
    """Name or key of a built image; the default recipe's if empty."""
    collateral: Path | None = None
    """File to verify a hardware quote with; the emulated platform has its own."""
    collateral_client: Client | None = None
    """Whom to ask for the same."""
    debug: bool = False
    ve: bool = False
    sept: PageTracking = PageTracking.OFF

    def __post_init__(self) -> None:
        # Before anything is fetched or built for a machine that could not be started.
        check_name(self.name)
        _ = self.spec

    @property
    def spec(self) -> MachineSpec:
        """The machine that was asked for. Raises `MalformedError` where there can be none such."""
        return MachineSpec(
            name=self.name,
            firmware=self.firmware,
            vcpus=self.vcpus,
            memory=self.memory_mib,
            td=Td(debug=self.debug),
            emulation=Emulation(ve=self.ve, sept=self.sept),
        )

    def refuse_contradictions(self, platform: Platform) -> None:
        """Raise `UsageError` for what the platform does not have."""
        emulated_only = self.ve or self.sept is not PageTracking.OFF or self.emulator_version
        if platform is Platform.HARDWARE and (emulated_only or self.emulator_source):
            raise UsageError(
                "--ve, --sept, --emulator-version and --source are for the emulated platform",
                hint="leave them out, or add --platform emulated",
            )
        given = [source for source in (self.collateral, self.collateral_client) if source is not None]
        if platform is Platform.HARDWARE and len(given) != 1:
            raise UsageError(
                "a hardware quote needs collateral to be verified with, from one source",
                hint="give --collateral FILE, or --fetch to ask Intel's service",
            )
        if platform is Platform.EMULATED and given:
            raise UsageError(
                "the emulated platform brings its own collateral", hint="leave out --collateral and --fetch"
            )
        self.spec.on(platform)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that is needed before the machine starts."""

    qemu: tuple[str, ...]
    firmware: Firmware
    image: Image
    anchor: TrustAnchor
    collateral_for: CollateralFor
    pki: Pki | None
    """The emulated platform's root of trust."""
    components: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UpResult:
    """What came of it: the verdict, everything that it rests on, and the machine, which runs on."""

    verification: BootResult
    choice: PlatformChoice
    components: Mapping[str, str]
    releases: Sequence[Release]
    """Of the package lists that something was taken from in this run."""
    phases: Mapping[str, float]
    machine: MachineState
    files: MachineFiles

    @property
    def every_check_passed(self) -> bool:
        """Whether there is nothing to remark: stricter than the verdict, which lets warnings pass."""
        passed = (Status.OK, Status.NOT_APPLICABLE)
        return all(check.status in passed for check in self.verification.checks)

    @property
    def warnings(self) -> list[str]:
        """What a person should know although everything went well."""
        return [release.warning for release in self.releases if release.warning]

    def to_json(self) -> dict[str, object]:
        """The document that `tdx up --json` prints (docs/reference/json.md)."""
        return {
            "verdict": self.verification.verdict,
            "emulated": self.choice.emulated,
            "platform": {"name": self.choice.platform.value, "reason": self.choice.reason},
            "components": dict(self.components),
            "warnings": self.warnings,
            "releases": {release.suite: _release_json(release) for release in self.releases},
            "registers": {name: register.to_json() for name, register in self.verification.registers.items()},
            "checks": [check.to_json() for check in self.verification.checks],
            "phases": dict(self.phases),
            "machine": asdict(self.machine) | {"files": str(self.files.directory)},
        }


def _release_json(release: Release) -> dict[str, object]:
    until = release.valid_until
    return {
        "date": release.date.isoformat(),
        "valid_until": until.isoformat() if until else None,
        "expired": release.expired,
    }


@dataclass(slots=True)
class Phases:
    """Seconds that each phase took, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def bring_up(
    request: UpRequest,
    surroundings: Surroundings,
    report: Report = silent,
    on_console: Callable[[str], None] = lambda line: None,
) -> UpResult:
    """Boot a TD from parts that are there or are made now, and verify what it presents.

    The machine runs on, whatever the verdict. If this is left by an exception it is ended; its logs stay
    until `tdx down` or the next start under its name. A machine of that name that has ended is replaced.
    Raises the parts' own errors; `UsageError` where a machine of that name runs already.
    """
    choice = choose_platform(surroundings.host, request.platform)
    request.refuse_contradictions(choice.platform)
    store = MachineStore(surroundings.directories)
    with store.claim(request.name):
        if store.is_running(request.name):
            raise UsageError(
                f"machine {request.name!r} is running already",
                hint=f"end it with `tdx down {request.name}`, or give another --name",
            )
        return _bring_up(request, choice, store, surroundings, report, on_console)


def _bring_up(
    request: UpRequest,
    choice: PlatformChoice,
    store: MachineStore,
    surroundings: Surroundings,
    report: Report,
    on_console: Callable[[str], None],
) -> UpResult:
    workshop = Workshop(
        surroundings, mirror=request.mirror, require_fresh=request.require_fresh, report=report
    )
    phases = Phases()
    parts = gather(request, choice, surroundings, workshop, phases)
    machines = Machines(surroundings, workshop=workshop)
    files, machine = store.files(request.name), machines.machine(request.name)
    try:
        with phases.measure("start"):
            machines.write_down(_plan(request, choice, parts, machines, workshop))
            state = interrupts.wait(lambda: start_machine(store, request.name, surroundings.clock()))
        with phases.measure("boot"):
            report("booting", None)
            machine.wait_for_ssh(timeout=BOOT_SECONDS, on_line=on_console)
        with phases.measure("evidence"):
            report("collecting evidence", None)
            nonce = secrets.token_bytes(NONCE_SIZE)
            evidence = collect_evidence(machine, nonce)
        with phases.measure("verify"):
            report("verifying", None)
            collateral = parts.collateral_for(evidence.quote)
            verification = _verify(parts, choice, evidence, collateral, nonce, files, surroundings)
    except BaseException as error:
        with interrupts.hold():
            _end(store, request.name)
            if isinstance(error, KeyboardInterrupt):
                store.remove(request.name)
        raise
    write_atomically(files.collateral, collateral.to_json())
    releases = list(workshop.releases.values())
    result = UpResult(verification, choice, parts.components, releases, phases.seconds, state, files)
    write_atomically(files.result, json.dumps(result.to_json(), indent=2).encode())
    return result


def _verify(
    parts: Parts,
    choice: PlatformChoice,
    evidence: Evidence,
    collateral: Collateral,
    nonce: bytes,
    files: MachineFiles,
    surroundings: Surroundings,
) -> BootResult:
    expected_mrtd = mrtd(parts.firmware.path.read_bytes()).single_pass
    return verify_boot(
        evidence,
        Expectation(nonce, seen_host_key(files), expected_mrtd),
        ParsedCollateral.parse(collateral),
        time=surroundings.clock(),
        anchors=(parts.anchor,),
        policy=Policy(allow_emulated=choice.emulated, required_attributes=TD_ATTRIBUTE_SEPT_VE_DISABLE),
    )


def _plan(
    request: UpRequest, choice: PlatformChoice, parts: Parts, machines: Machines, workshop: Workshop
) -> Plan:
    placement = Placement(
        platform=choice.platform,
        qemu=parts.qemu,
        firmware=parts.firmware.path,
        authorized_key="",
        silicon=silicon(parts.pki) if parts.pki else None,
        quote_service=machines.quote_service(choice.platform),
        td_can_reset=not choice.emulated and workshop.abilities(parts.qemu).td_can_reset,
    )
    kernel = kernel_beside(parts.image)
    spec = request.spec if kernel is None else request.spec.changed(direct_kernel=kernel)
    return Plan(spec, placement, {0: parts.image})


def _end(store: MachineStore, name: str) -> None:
    interrupts.wait(lambda: control.stop(store, name, StopMode.FORCE, DOWN_SECONDS))


def gather(
    request: UpRequest,
    choice: PlatformChoice,
    surroundings: Surroundings,
    workshop: Workshop,
    phases: Phases,
) -> Parts:
    """Find, fetch or build every part."""
    components = {"tdxstack": __version__}
    with phases.measure("emulator" if choice.emulated else "qemu"):
        if choice.emulated:
            emulator = workshop.emulator(request.emulator_version, request.emulator_source)
            qemu = tuple(emulator.argv_prefix)
            components |= {"qemu": f"{emulator.version} (emulating)", "emulator": emulator.key}
        else:
            qemu = (workshop.host_qemu(),)
            components["qemu"] = qemu[0]
    with phases.measure("firmware"):
        firmware = workshop.firmware(request.firmware)
        components["firmware"] = f"{firmware.path.name} sha256 {firmware.sha256}"
    with phases.measure("image"):
        image = _image(request, surroundings, workshop)
        components |= {"image": image.key, "kernel": image.kernel_version}
    with phases.measure("trust"):
        if choice.emulated:
            pki = open_pki(surroundings.directories.data / "pki", surroundings.clock())
            return Parts(
                qemu,
                firmware,
                image,
                TrustAnchor.from_certificate(pki.trust_anchor_pem),
                lambda quote: pki.collateral(),
                pki,
                components,
            )
        collateral_for = _given_collateral(request)
        return Parts(qemu, firmware, image, INTEL_SGX_ROOT_CA, collateral_for, None, components)


def _image(request: UpRequest, surroundings: Surroundings, workshop: Workshop) -> Image:
    if request.image:
        return find_image(surroundings.directories, request.image).image
    return workshop.image()


def _given_collateral(request: UpRequest) -> CollateralFor:
    if request.collateral_client is not None:
        return collateral_of_service(request.collateral_client)
    assert request.collateral is not None, "refuse_contradictions has seen to it"
    return collateral_of_file(request.collateral)
