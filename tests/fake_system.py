"""A host in memory that can be set up: files, and the programs that setting up runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tdxstack.errors import CommandError
from tdxstack.host_access import Output

CPUINFO = (
    b"processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nflags\t\t: fpu vmx\n\n"
)
TDX_CONFIG = b"CONFIG_INTEL_TDX_HOST=y\nCONFIG_KVM_INTEL_TDX=y\n"
PLAIN_CONFIG = b"# CONFIG_INTEL_TDX_HOST is not set\n"

PROGRAMS = {
    "apt": ("dpkg-query", "apt-cache", "apt-get"),
    "dnf": ("rpm", "dnf"),
    "zypper": ("rpm", "zypper"),
}
ALWAYS = ("usermod", "gpasswd", "systemctl")
BRINGS = {
    "qemu-system-x86": ("kvm", {}),
    "qemu-system-x86-core": ("kvm", {}),
    "libvirt-daemon-system": ("libvirt", {"libvirt-qemu": "libvirt-qemu"}),
    "tdx-qgs": ("qgsd", {}),
}
"""Groups and users that come with packages."""
QGS_CONF = b"#set port number\nport = 4050\nnumber_threads = 4\n"


@dataclass
class FakeSystem:
    """`/pkgs/NAME` marks an installed package, `/units/NAME` the state of a unit."""

    files: dict[str, bytes]
    archive: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Packages with their versions and suites."""
    programs: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    fail_after: int | None = None
    """Changes that succeed before one is interrupted."""
    breaks_off: bool = False
    """The package manager is interrupted after the first package."""

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def names(self, path: str) -> tuple[str, ...]:
        below = path + "/"
        return tuple(
            sorted({name[len(below) :].split("/")[0] for name in self.files if name.startswith(below)})
        )

    def write(self, path: str, data: bytes) -> None:
        self._may_change()
        self.files[path] = data

    def remove(self, path: str) -> None:
        self._may_change()
        self.files.pop(path, None)

    def has(self, program: str) -> bool:
        return program in self.programs

    def ask(self, argv: Sequence[str]) -> Output:
        if not self.has(argv[0]):
            return Output(127, "", "not found")
        name = argv[-1]
        if argv[0] in ("dpkg-query", "rpm"):
            there = f"/pkgs/{name}" in self.files
            return Output(0 if there else 1, "installed" if there and argv[0] == "dpkg-query" else "", "")
        if argv[0] == "apt-cache":
            return Output(0, self._apt_cache(argv[1], name), "")
        if argv[0] == "dnf":
            return Output(0, f"{name}\n" if name in self.archive else "", "")
        if argv[0] == "zypper":
            return Output(0 if name in self.archive else 104, "", "")
        if argv[0] == "systemctl":
            state = self.files.get(f"/units/{name}", b"").decode()
            return Output(0 if state == "enabled" else 1, state, "")
        if argv[0] == "grubby":
            return Output(0, f'index=0\nargs="{self.files["/grubby"].decode()}"\n', "")
        raise AssertionError(f"unexpected question {argv}")

    def change(self, argv: Sequence[str]) -> None:
        self._may_change()
        self.ran.append(" ".join(argv))
        if not self.has(argv[0]):
            raise CommandError(f"{argv[0]} failed")
        words = list(argv[1:])
        handlers: dict[str, Callable[[list[str]], None]] = {
            "apt-get": self._manage,
            "dnf": self._manage,
            "zypper": self._manage,
            "update-grub": self._update_grub,
            "sdbootutil": self._update_entries,
            "grubby": self._grubby,
            "pbl": lambda words: None,
            "usermod": lambda words: self._group(words[2], words[3], add=True),
            "gpasswd": lambda words: self._group(words[2], words[1], add=False),
            "systemctl": self._systemctl,
        }
        handlers[argv[0]](words)

    def _may_change(self) -> None:
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise KeyboardInterrupt
            self.fail_after -= 1

    def _apt_cache(self, verb: str, name: str) -> str:
        versions = self.archive.get(name, [])
        if verb == "policy":
            return f"{name}:\n  Candidate: {versions[-1][0] if versions else '(none)'}\n"
        return "".join(f" {name} | {v} | http://deb {suite}/main amd64 Packages\n" for v, suite in versions)

    def _manage(self, words: list[str]) -> None:
        names = [word for word in words if word in self.archive]
        if "install" in words:
            for name in names:
                self._install(name)
                if self.breaks_off:
                    raise KeyboardInterrupt
        elif "remove" in words:
            for name in names:
                self._uninstall(name)

    def _install(self, name: str) -> None:
        self.files[f"/pkgs/{name}"] = b""
        group, users = BRINGS.get(name, ("", {}))
        if group:
            self._append("/etc/group", f"{group}:x:99:\n")
        for user in users:
            self._append("/etc/passwd", f"{user}:x:99:99::/:/bin/false\n")
        if name == "tdx-qgs":
            fedoras = self.has("dnf")
            self.files["/etc/qgs.conf"] = QGS_CONF.replace(b"\nport", b"\n#port") if fedoras else QGS_CONF
            self.files["/units/qgs" if fedoras else "/units/qgsd"] = b"disabled"

    def _uninstall(self, name: str) -> None:
        self.files.pop(f"/pkgs/{name}", None)
        group, users = BRINGS.get(name, ("", {}))
        for path, gone in (("/etc/group", {group}), ("/etc/passwd", set(users))):
            kept = [
                line for line in self.files[path].splitlines(True) if line.decode().split(":")[0] not in gone
            ]
            self.files[path] = b"".join(kept)
        if name == "tdx-qgs":
            del self.files["/etc/qgs.conf"]
            del self.files["/units/qgs" if self.has("dnf") else "/units/qgsd"]

    def _append(self, path: str, line: str) -> None:
        if line.encode() not in self.files[path]:
            self.files[path] += line.encode()

    def _update_grub(self, words: list[str]) -> None:
        parts = [f"/etc/default/grub.d/{name}" for name in self.names("/etc/default/grub.d")]
        self.files["/boot/grub/grub.cfg"] = b"".join(
            self.files[path] for path in ["/etc/default/grub", *parts]
        )

    def _update_entries(self, words: list[str]) -> None:
        self.files["/boot/entries"] = self.files["/etc/kernel/cmdline"]

    def _grubby(self, words: list[str]) -> None:
        args = self.files["/grubby"].decode().split()
        for word in words:
            option, _, values = word.partition("=")
            if option == "--args":
                args += [value for value in values.split() if value not in args]
            if option == "--remove-args":
                args = [arg for arg in args if arg not in values.split()]
        self.files["/grubby"] = " ".join(args).encode()

    def _group(self, group: str, user: str, *, add: bool) -> None:
        lines = []
        for line in self.files["/etc/group"].decode().splitlines():
            fields = line.split(":")
            if fields[0] == group:
                members = [name for name in fields[3].split(",") if name and name != user]
                fields[3] = ",".join([*members, user] if add else members)
            lines.append(":".join(fields))
        self.files["/etc/group"] = "".join(f"{line}\n" for line in lines).encode()

    def _systemctl(self, words: list[str]) -> None:
        if words[0] in ("enable", "disable"):
            self.files[f"/units/{words[-1]}"] = f"{words[0]}d".encode()

    def reboot(self) -> None:
        """The kernel comes up with what the boot loader was given."""
        grub = self.files.get("/boot/grub/grub.cfg", b"") + self.files.get("/grubby", b"")
        words = (grub + self.files.get("/boot/entries", b"")).decode().replace('"', " ").split()
        wanted = [word for word in ("nohibernate", "kvm_intel.tdx=1") if word in words]
        self.files["/proc/cmdline"] = " ".join(["root=/dev/sda", *wanted]).encode()
        if "kvm_intel.tdx=1" in wanted:
            self.files["/sys/module/kvm_intel/parameters/tdx"] = b"Y\n"


def ubuntu() -> FakeSystem:
    """A server with Ubuntu 26.04, and Intel's repository configured."""
    new = [("1:10.2.1+ds-1ubuntu3", "resolute")]
    system = base("ubuntu", "Ubuntu", "26.04", "apt")
    system.archive = {
        "qemu-system-x86": new,
        "ovmf": [("2025.11-3", "resolute")],
        "libvirt-daemon-system": [("12.0.0-1", "resolute")],
        "libvirt-clients": [("12.0.0-1", "resolute")],
        "linux-generic": [("7.0.0.10", "resolute")],
        "tdx-qgs": [("1.23", "noble")],
        "libsgx-dcap-default-qpl": [("1.23", "noble")],
    }
    system.programs |= {"update-grub"}
    system.files["/etc/default/grub"] = b'GRUB_CMDLINE_LINUX=""\n'
    system.files["/boot/grub/grub.cfg"] = system.files["/etc/default/grub"]
    return system


def fedora() -> FakeSystem:
    """A server with Fedora 43."""
    system = base("fedora", "Fedora Linux", "43", "dnf")
    names = (
        "qemu-system-x86-core",
        "edk2-ovmf",
        "libvirt-daemon-driver-qemu",
        "libvirt-client",
        "tdx-qgs",
        "sgx-libs",
    )
    system.archive = {name: [("1", "fedora")] for name in names}
    system.programs |= {"grubby"}
    system.files |= {"/grubby": b"ro quiet", "/units/virtqemud.socket": b"disabled"}
    return system


def tumbleweed() -> FakeSystem:
    """A server with openSUSE Tumbleweed, which boots through systemd-boot entries."""
    system = base("opensuse-tumbleweed", "openSUSE Tumbleweed", "20261101", "zypper", like="opensuse suse")
    names = ("qemu-x86", "qemu-ovmf-x86_64", "libvirt-daemon-qemu", "libvirt-client")
    system.archive = {name: [("1", "oss")] for name in names}
    system.programs |= {"sdbootutil"}
    system.files |= {
        "/etc/kernel/cmdline": b"root=/dev/sda quiet\n",
        "/boot/entries": b"root=/dev/sda quiet\n",
    }
    return system


def base(id: str, name: str, version: str, manager: str, like: str = "") -> FakeSystem:
    return FakeSystem(
        {
            "/etc/os-release": f'ID={id}\nNAME="{name}"\nVERSION_ID="{version}"\nID_LIKE="{like}"\n'.encode(),
            "/etc/passwd": b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
            "/etc/group": b"root:x:0:\nalice:x:1000:\n",
            "/proc/cpuinfo": CPUINFO,
            "/proc/cmdline": b"root=/dev/sda",
            "/boot/config-7.0.0-10-generic": TDX_CONFIG,
        },
        programs={*PROGRAMS[manager], *ALWAYS},
    )
