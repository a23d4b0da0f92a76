"""What is left to do until a host can run TDs: looked at anew each time, so that it goes on where it was."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tdxstack.host.checks.processor import CPUINFO, INTEL, Processor
from tdxstack.host.setup_distribution import (
    PCCS,
    QUOTING,
    REGISTRATION,
    Alternatives,
    Distribution,
    chosen,
    qemu_suite,
)
from tdxstack.host.setup_parameters import WANTED, modprobe_step, parameters_step, running_without
from tdxstack.host.setup_steps import CommandStep, FileStep, PackageStep, Step, is_installed
from tdxstack.host.setup_system import System
from tdxstack.verification.result import Check, judged

QGS_CONFIGURATION: Final = "/etc/qgs.conf"
QGS_DROP_IN: Final = "/etc/systemd/system/qgsd.service.d/60-tdxstack.conf"
QGS_GROUP: Final = "qgsd"
INTEL_QGS_UNIT: Final = "qgsd"
FEDORA_QGS_UNIT: Final = "qgs"
MAX_CONFIGURATION: Final = 4 << 20
KVM_PARAMETER: Final = "/sys/module/kvm_intel/parameters/tdx"

_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}")
_QGS_PORT = re.compile(rb"(?m)^([ \t]*port[ \t]*=.*)$")
_QGS_SERVICE: Final = b"""# Written by tdx host setup: a unix socket that the group qgsd may use.
[Service]
RuntimeDirectory=tdx-qgs
RuntimeDirectoryMode=0750
UMask=0007
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user wants beyond the plain set-up."""

    kernel: str = ""
    """Release of an installed kernel that the user vouches for."""
    user: str = ""
    """Who is to run TDs; empty for nobody but root and libvirt."""
    pccs: bool = False
    register: bool = False


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why this machine cannot be made ready by this command, and what to do about it."""

    problem: str
    hint: str


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """The steps that are left. With blockers nothing may be done. `reboot` says why one is needed."""

    distribution: Distribution
    kernel: str
    steps: tuple[Step, ...]
    blockers: tuple[Blocker, ...]
    notes: tuple[str, ...]
    reboot: tuple[str, ...]


@dataclass
class _Draft:
    steps: list[Step] = field(default_factory=list)
    blockers: list[Blocker] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reboot: list[str] = field(default_factory=list)


def plan_setup(system: System, distribution: Distribution, options: Options, running: str) -> SetupPlan:
    """Look at the host and say what is left. `running` is the release of the running kernel."""
    draft = _Draft()
    kernel = options.kernel or running
    _cpu(system, draft)
    _version(distribution, draft)
    wanted = _kernel(system, distribution, options, running, draft)
    _packages(system, distribution, wanted, draft)
    _parameters(system, draft)
    _groups(system, options.user, draft)
    _services(system, distribution, draft)
    _quoting(system, distribution, options, draft)
    return SetupPlan(
        distribution,
        kernel,
        tuple(draft.steps),
        tuple(draft.blockers),
        tuple(draft.notes),
        tuple(draft.reboot),
    )


def _cpu(system: System, draft: _Draft) -> None:
    cpu = Processor.parse((system.read(CPUINFO) or b"").decode("utf-8", "replace"))
    if cpu.vendor == INTEL and "hypervisor" in cpu.flags:
        problem = "this is a virtual machine: TDs run on the machine below it"
        draft.blockers.append(Blocker(problem, "run it on that; the emulated platform works here: tdx up"))
    elif cpu.why_no_tdx:
        problem = f"this machine lacks a CPU with TDX: {cpu.why_no_tdx}"
        draft.blockers.append(Blocker(problem, "use one with TDX; the emulated platform needs none: tdx up"))


def _version(distribution: Distribution, draft: _Draft) -> None:
    if distribution.oldest and _numbers(distribution.version) < _numbers(distribution.oldest):
        problem = f"{distribution.described} has no kernel and QEMU that run TDs"
        draft.blockers.append(
            Blocker(problem, f"upgrade to {distribution.name} {distribution.oldest} or newer")
        )
    if not distribution.oldest and distribution.id != "debian":
        draft.notes.append(
            f"it is not known from which version on {distribution.name}'s QEMU runs TDs: tdx doctor will tell"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


def _kernel(
    system: System, distribution: Distribution, options: Options, running: str, draft: _Draft
) -> tuple[Alternatives, ...]:
    """Judge the kernel; returns the package of one with TDX where that is to be installed."""
    release = options.kernel or running
    if not _RELEASE.fullmatch(release):
        draft.blockers.append(
            Blocker(f"{release[:60]!r} is no kernel release", "take one that ls /boot names")
        )
        return ()
    able = kernel_has_tdx(system, release, running)
    if able:
        if release != running:
            draft.reboot.append(f"kernel {running} runs, not {release}: choose it in the boot loader")
        return ()
    if options.kernel:
        known = "was not built with INTEL_TDX_HOST" if able is False else "has no configuration in /boot"
        hint = f"grep INTEL_TDX_HOST /boot/config-{release}; it has to be y"
        draft.blockers.append(Blocker(f"kernel {release} {known}", hint))
        return ()
    if distribution.kernel:
        draft.reboot.append(f"kernel {running} cannot host TDs; that of {distribution.kernel[0]} can")
        return (distribution.kernel,)
    _no_kernel(distribution, running, able, draft)
    return ()


def _no_kernel(distribution: Distribution, running: str, able: bool | None, draft: _Draft) -> None:
    """The distribution has no kernel to install, and the one that runs is not known to do."""
    if able is None and distribution.id != "debian":
        draft.notes.append(f"whether kernel {running} can host TDs is not known: it shows no configuration")
        return
    shows = "shows no configuration" if able is None else "is built without INTEL_TDX_HOST"
    problem = f"kernel {running} {shows}; no kernel of {distribution.name} is known that has INTEL_TDX_HOST"
    hint = (
        "install a kernel (6.16 or newer) with CONFIG_INTEL_TDX_HOST=y, then: tdx host setup --kernel RELEASE"
    )
    draft.blockers.append(Blocker(problem, hint))


def kernel_has_tdx(system: System, release: str, running: str) -> bool | None:
    """Whether an installed kernel can host TDs, by its configuration; None where that is not found."""
    places = (
        f"/boot/config-{release}",
        f"/usr/lib/modules/{release}/config",
        f"/lib/modules/{release}/config",
    )
    text = next((data for data in map(system.read, places) if data), None)
    if text is None and release == running:
        text = _unpacked(system.read("/proc/config.gz"))
    if text is None:
        return None
    lines = text.decode("utf-8", "replace").splitlines()
    return "CONFIG_INTEL_TDX_HOST=y" in lines and "# CONFIG_KVM_INTEL_TDX is not set" not in lines


def _unpacked(data: bytes | None) -> bytes | None:
    """The configuration that the running kernel shows of itself."""
    if data is None:
        return None
    try:
        return zlib.decompressobj(wbits=31).decompress(data, MAX_CONFIGURATION)
    except zlib.error:
        return None


def _packages(
    system: System, distribution: Distribution, kernel: Sequence[Alternatives], draft: _Draft
) -> None:
    suite = qemu_suite(distribution, system)
    if suite is None:
        problem = f"no configured archive of {distribution.described} has QEMU 10.1 or newer"
        hint = "upgrade the distribution, or add its backports (Debian 13: trixie-backports)"
        draft.blockers.append(Blocker(problem, hint))
        return
    found, absent = chosen((*kernel, distribution.qemu, *distribution.others), distribution, system)
    for name in absent:
        draft.blockers.append(Blocker(f"no repository has {name}", "enable the distribution's repositories"))
    why = "kernel, QEMU, TDVF and libvirt" if kernel else "QEMU, TDVF and libvirt"
    _install("packages", why, found, suite, distribution, system, draft)


def _install(
    id: str,
    why: str,
    packages: Sequence[str],
    suite: str,
    distribution: Distribution,
    system: System,
    draft: _Draft,
) -> None:
    manager = distribution.packages
    missing = tuple(name for name in packages if not is_installed(system, manager.query, name))
    if missing:
        commands = manager.install(missing, suite)
        draft.steps.append(PackageStep(id, why, missing, commands, manager.remove, manager.query))


def _parameters(system: System, draft: _Draft) -> None:
    step, problem = parameters_step(system)
    missing = running_without(system)
    if problem and missing:
        draft.blockers.append(Blocker(problem, "add them to the kernel command line, then run this again"))
    if step:
        draft.steps.append(step)
    if missing:
        draft.reboot.append(f"the running kernel was booted without {' '.join(missing)}")
    again = modprobe_step(system)
    if again:
        draft.steps.append(again)


def _groups(system: System, user: str, draft: _Draft) -> None:
    if not user:
        return
    for group, why in (("kvm", "open /dev/kvm"), ("libvirt", "use libvirt")):
        _member(system, user, group, f"{user} may {why}", draft)


def _member(system: System, user: str, group: str, why: str, draft: _Draft) -> None:
    """A step that adds a user to a group; none where either does not exist, or the user is in it."""
    users = {line.split(":")[0] for line in _lines(system, "/etc/passwd")}
    groups = {line.split(":")[0]: line.split(":")[-1].split(",") for line in _lines(system, "/etc/group")}
    if user in users and group in groups and user not in groups[group]:
        draft.steps.append(
            CommandStep(
                f"group.{group}.{user}",
                why,
                ("usermod", "--append", "--groups", group, user),
                ("gpasswd", "--delete", user, group),
            )
        )


def _lines(system: System, path: str) -> list[str]:
    return (system.read(path) or b"").decode("utf-8", "replace").splitlines()


def _services(system: System, distribution: Distribution, draft: _Draft) -> None:
    for unit in distribution.services:
        _enabled(system, unit, "libvirt runs", draft)


def _exists(system: System, unit: str) -> bool:
    return system.ask(["systemctl", "is-enabled", unit]).stdout.strip() in ("enabled", "disabled")


def _enabled(system: System, unit: str, why: str, draft: _Draft) -> None:
    """A step that turns a unit on which exists and is off."""
    if system.ask(["systemctl", "is-enabled", unit]).stdout.strip() == "disabled":
        on, off = ("systemctl", "enable", "--now", unit), ("systemctl", "disable", "--now", unit)
        draft.steps.append(CommandStep(f"service.{unit}", why, on, off))


def _quoting(system: System, distribution: Distribution, options: Options, draft: _Draft) -> None:
    found, absent = chosen(QUOTING, distribution, system)
    asked = [*([PCCS] if options.pccs else []), *([REGISTRATION] if options.register else [])]
    more, lacking = chosen(asked, distribution, system)
    hint = (
        "configure Intel's SGX repository, which this command never does by itself, or leave out the option"
    )
    draft.blockers.extend(Blocker(f"no repository has {name}", hint) for name in lacking)
    if absent:
        draft.notes.append(
            f"no quotes yet: no configured repository has {', '.join(absent)};"
            " configure Intel's SGX repository, then run this again"
        )
        found = []
    _install("quoting.packages", "QGS signs quotes for TDs", [*found, *more], "", distribution, system, draft)
    _quoting_socket(system, distribution, options, draft)


def _quoting_socket(system: System, distribution: Distribution, options: Options, draft: _Draft) -> None:
    """QGS on its unix socket, for those who run QEMU.

    Fedora's own package has the socket and its permissions right; Intel's listens on vsock.
    """
    _enabled(system, FEDORA_QGS_UNIT, "QGS runs", draft)
    configuration = system.read(QGS_CONFIGURATION)
    if configuration is None or not _exists(system, INTEL_QGS_UNIT):
        return
    restart = ("systemctl", "try-restart", INTEL_QGS_UNIT)
    unix = _QGS_PORT.sub(rb"# \1", configuration)
    service = system.read(QGS_DROP_IN)
    if service != _QGS_SERVICE:
        reload = ("systemctl", "daemon-reload")
        step = FileStep(
            "quoting.service", "QEMU may use QGS's socket", QGS_DROP_IN, service, _QGS_SERVICE, reload
        )
        draft.steps.append(step)
    if unix != configuration:
        why = "libvirt and QEMU reach QGS over its unix socket; with a port it listens on vsock"
        step = FileStep("quoting.socket", why, QGS_CONFIGURATION, configuration, unix, restart)
        draft.steps.append(step)
    for user in (distribution.qemu_user, options.user):
        if user:
            _member(system, user, QGS_GROUP, f"{user} may ask QGS for quotes", draft)
    _enabled(system, INTEL_QGS_UNIT, "QGS runs", draft)


def ready_checks(system: System) -> list[Check]:
    """Whether what was set up is in force in this boot."""
    missing = running_without(system)
    parameter = (system.read(KVM_PARAMETER) or b"").decode("ascii", "replace").strip()
    return [
        judged(
            "kernel.parameters",
            not missing,
            " ".join(WANTED),
            f"without {' '.join(missing)}" if missing else "there",
        ),
        judged(
            "kvm.parameter",
            parameter in ("Y", "1"),
            "Y",
            parameter or "absent",
            "see the kernel's log: tdx doctor",
        ),
    ]
