"""Distributions that can be TDX hosts: their package managers, packages and ways to set kernel parameters.

Sources: canonical/tdx issue 411 (Ubuntu 25.10 and newer), Fedora's change "Confidential Virtualization Host
for Intel TDX" (Fedora 43) and its linux-sgx package, Debian's package archive. Which packages a distribution
really has is asked of its package manager: of alternatives, the first that is there is taken.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tdxstack.errors import UnavailableError
from tdxstack.host.setup_steps import is_installed
from tdxstack.host.setup_system import System

Alternatives = tuple[str, ...]
"""Names of one thing; the first that the distribution has is taken."""

QEMU_WITH_TDX: Final = (10, 1)

_POLICY_VERSION = re.compile(r"(?:[0-9]+:)?([0-9]+)\.([0-9]+)")


class PackageManager(Protocol):
    """What is asked of a package manager, and the commands that change the host."""

    @property
    def query(self) -> tuple[str, ...]:
        """The command that tells whether the package named behind it is installed."""

    @property
    def remove(self) -> tuple[str, ...]:
        """The command that removes the packages named behind it."""

    def available(self, system: System, package: str) -> bool:
        """Whether a configured repository has the package."""

    def install(self, packages: Sequence[str], suite: str) -> tuple[tuple[str, ...], ...]:
        """The commands that install, the last of them doing it; `suite` where it is not the default one."""


@dataclass(frozen=True, slots=True)
class Apt:
    """Debian's and Ubuntu's."""

    query: tuple[str, ...] = ("dpkg-query", "--show", "--showformat=${db:Status-Status}")
    remove: tuple[str, ...] = ("apt-get", "--quiet", "--yes", "remove")

    def available(self, system: System, package: str) -> bool:
        return bool(self.versions(system, package))

    def versions(self, system: System, package: str) -> list[tuple[str, str]]:
        """The versions in the configured suites, newest first, each with the suite's name."""
        rows = [line.split("|") for line in system.ask(["apt-cache", "madison", package]).stdout.splitlines()]
        return [
            (row[1].strip(), row[2].split()[1].split("/")[0])
            for row in rows
            if len(row) == 3 and row[0].strip() == package and len(row[2].split()) > 1
        ]

    def install(self, packages: Sequence[str], suite: str) -> tuple[tuple[str, ...], ...]:
        target = ("--target-release", suite) if suite else ()
        base = ("apt-get", "--quiet", "--yes")
        return (*base, "update"), (*base, "install", "--no-install-recommends", *target, *packages)


@dataclass(frozen=True, slots=True)
class Dnf:
    """Fedora's, RHEL's and openEuler's."""

    query: tuple[str, ...] = ("rpm", "--query", "--quiet")
    remove: tuple[str, ...] = ("dnf", "--assumeyes", "remove")

    def available(self, system: System, package: str) -> bool:
        return bool(system.ask(["dnf", "--quiet", "repoquery", package]).stdout.strip())

    def install(self, packages: Sequence[str], suite: str) -> tuple[tuple[str, ...], ...]:
        # Fedora's QGS recommends the agent that registers the platform with Intel: only if asked for.
        return (("dnf", "--assumeyes", "--setopt=install_weak_deps=False", "install", *packages),)


@dataclass(frozen=True, slots=True)
class Zypper:
    """SUSE's."""

    query: tuple[str, ...] = ("rpm", "--query", "--quiet")
    remove: tuple[str, ...] = ("zypper", "--non-interactive", "remove")

    def available(self, system: System, package: str) -> bool:
        argv = [
            "zypper",
            "--non-interactive",
            "--quiet",
            "search",
            "--match-exact",
            "--type",
            "package",
            package,
        ]
        return system.ask(argv).returncode == 0

    def install(self, packages: Sequence[str], suite: str) -> tuple[tuple[str, ...], ...]:
        return (("zypper", "--non-interactive", "install", "--no-recommends", *packages),)


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution as a TDX host."""

    id: str
    name: str
    version: str
    packages: PackageManager
    qemu: Alternatives
    others: tuple[Alternatives, ...]
    kernel: Alternatives
    """Packages of a kernel with INTEL_TDX_HOST; empty where the distribution has none that is known."""
    qemu_user: str
    """Whom libvirt runs QEMU as."""
    services: tuple[str, ...] = ()
    """Units of libvirt that installing does not turn on."""
    oldest: str = ""
    """The first version that can be a TDX host; empty where that is not known."""

    @property
    def described(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


_TDVF_DEBIAN: Final = ("ovmf-inteltdx", "ovmf")
_LIBVIRT_DEBIAN: Final = (("libvirt-daemon-system",), ("libvirt-clients",))
_LIBVIRT_RPM: Final = (("libvirt-daemon-driver-qemu", "libvirt-daemon-kvm", "libvirt"), ("libvirt-client",))

QUOTING: Final[tuple[Alternatives, ...]] = (
    ("tdx-qgs",),
    ("libsgx-dcap-default-qpl", "sgx-libs"),
)
PCCS: Final[Alternatives] = ("sgx-dcap-pccs", "sgx-pccs")
REGISTRATION: Final[Alternatives] = ("sgx-ra-service", "sgx-mpa")
"""Packages of Intel's repository, which Ubuntu's and Fedora's own archives have in part."""


def distribution_of(system: System) -> Distribution:
    """The distribution that /etc/os-release names. Raises `UnavailableError` on one that is not known."""
    fields = os_release(system)
    version = fields.get("VERSION_ID", "")
    for id in (fields.get("ID", ""), *fields.get("ID_LIKE", "").split()):
        if id in _KNOWN:
            return _KNOWN[id](fields.get("NAME", id), version)
    name = fields.get("NAME") or fields.get("ID") or "this system"
    raise UnavailableError(
        f"tdx host setup does not know {name[:60]}",
        hint="it knows Ubuntu, Debian, Fedora, RHEL and its kin, SUSE and openEuler",
    )


def os_release(system: System) -> Mapping[str, str]:
    """The fields of /etc/os-release."""
    text = (system.read("/etc/os-release") or system.read("/usr/lib/os-release") or b"").decode(
        "utf-8", "replace"
    )
    fields = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.isidentifier():
            fields[key] = _unquoted(value)
    return fields


def _unquoted(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        return value
    return words[0] if words else ""


def qemu_suite(distribution: Distribution, system: System) -> str | None:
    """From which suite of an apt archive a QEMU with TDX comes: empty for the default, None for none."""
    if not isinstance(distribution.packages, Apt):
        return ""
    versions = distribution.packages.versions(system, distribution.qemu[0])
    policy = system.ask(["apt-cache", "policy", distribution.qemu[0]]).stdout
    candidate = re.search(r"Candidate: (\S+)", policy)
    if candidate and _new_enough(candidate[1]):
        return ""
    return next((suite for version, suite in versions if _new_enough(version)), None)


def _new_enough(version: str) -> bool:
    match = _POLICY_VERSION.match(version)
    return match is not None and (int(match[1]), int(match[2])) >= QEMU_WITH_TDX


def chosen(
    wanted: Iterable[Alternatives], distribution: Distribution, system: System
) -> tuple[list[str], list[str]]:
    """Of each alternatives the package to have, installed ones first; and those of which there is none."""
    manager = distribution.packages
    found, absent = [], []
    for names in wanted:
        package = next((name for name in names if is_installed(system, manager.query, name)), None)
        package = package or next((name for name in names if manager.available(system, name)), None)
        if package:
            found.append(package)
        else:
            absent.append(" or ".join(names))
    return found, absent


def _ubuntu(name: str, version: str) -> Distribution:
    return Distribution(
        "ubuntu",
        name,
        version,
        Apt(),
        ("qemu-system-x86",),
        (_TDVF_DEBIAN, *_LIBVIRT_DEBIAN),
        ("linux-generic",),
        "libvirt-qemu",
        oldest="25.10",
    )


def _debian(name: str, version: str) -> Distribution:
    return Distribution(
        "debian",
        name,
        version,
        Apt(),
        ("qemu-system-x86",),
        (_TDVF_DEBIAN, *_LIBVIRT_DEBIAN),
        (),
        "libvirt-qemu",
    )


def _fedora(name: str, version: str) -> Distribution:
    return Distribution(
        "fedora",
        name,
        version,
        Dnf(),
        ("qemu-system-x86-core", "qemu-kvm"),
        (("edk2-ovmf",), *_LIBVIRT_RPM),
        ("kernel",),
        "qemu",
        ("virtqemud.socket",),
        oldest="43",
    )


def _rhel(name: str, version: str) -> Distribution:
    return Distribution(
        "rhel",
        name,
        version,
        Dnf(),
        ("qemu-kvm",),
        (("edk2-ovmf",), *_LIBVIRT_RPM),
        (),
        "qemu",
        ("virtqemud.socket",),
    )


def _suse(name: str, version: str) -> Distribution:
    return Distribution(
        "suse",
        name,
        version,
        Zypper(),
        ("qemu-x86",),
        (("qemu-ovmf-x86_64",), ("libvirt-daemon-qemu", "libvirt-daemon-driver-qemu"), ("libvirt-client",)),
        (),
        "qemu",
        ("virtqemud.socket",),
    )


def _openeuler(name: str, version: str) -> Distribution:
    return Distribution(
        "openeuler",
        name,
        version,
        Dnf(),
        ("qemu",),
        (("edk2-ovmf",), ("libvirt",), ("libvirt-client",)),
        (),
        "qemu",
        ("libvirtd",),
    )


_KNOWN: Final = {
    "ubuntu": _ubuntu,
    "debian": _debian,
    "fedora": _fedora,
    "rhel": _rhel,
    "centos": _rhel,
    "suse": _suse,
    "opensuse": _suse,
    "sles": _suse,
    "openEuler": _openeuler,
}
