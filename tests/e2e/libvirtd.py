"""A libvirtd of the tests' own: the distribution's newest, out of a private root, with nothing of the host's.

It runs in mount and process name spaces of its own. There the private root's /usr stands in for the host's;
/etc, /run and /var are directories of the tests. Whatever it starts ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import UnavailableError
from tdxstack.machine.libvirt_binding import Binding, load
from tdxstack.toolbox.apt import extract
from tdxstack.workflows.workshop import Workshop

SECONDS = 60
LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PACKAGES = (
    *("libvirt-clients", "libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-daemon-driver-storage"),
    *("libxml2-utils", "ovmf-generic", "ovmf-inteltdx", "passt", "qemu-system-x86", "qemu-utils"),
    "swtpm-tools",
)

# After the new /usr there are only the shell's own commands: the private root has no others.
SCRIPT = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$1/etc" /etc
mount --bind "$1/run" /run
mount --bind "$1/var" /var
mount --rbind "$2/usr" /usr
/usr/sbin/libvirtd &
wait
"""

QEMU_CONF = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
"""
LIBVIRTD_CONF = """
auth_unix_ro = "none"
auth_unix_rw = "none"
"""
PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
libvirt-qemu:x:64055:64055::/:/bin/false
"""
GROUP = """root:x:0:
nogroup:x:65534:
libvirt-qemu:x:64055:
kvm:x:64056:
"""


@dataclass(frozen=True)
class Libvirtd:
    """Where it is: the private root, and what it has for /etc, /run and /var."""

    root: Path
    place: Path

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def socket(self) -> Path:
        return self.place / "run/libvirt/libvirt-sock"

    @property
    def capabilities(self) -> Path:
        """Where it remembers what each QEMU can do."""
        return self.place / "var/cache/libvirt/qemu/capabilities"

    def prepare(self) -> None:
        for name in ("etc/libvirt", "run/lock", "var/lock"):
            (self.place / name).mkdir(parents=True)
        etc = self.place / "etc"
        (etc / "libvirt/qemu.conf").write_text(QEMU_CONF)
        (etc / "libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
        (etc / "passwd").write_text(PASSWD)
        (etc / "group").write_text(GROUP)

    @contextlib.contextmanager
    def running(self, *, on_cpu: int | None = None) -> Iterator[None]:
        """Run it for as long as the block lasts. Raises `UnavailableError` where it does not start."""
        log = self.place / "log"
        pin = [] if on_cpu is None else ["taskset", "--cpu-list", str(on_cpu)]
        space = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        self.socket.unlink(missing_ok=True)
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*pin, *space, "sh", "-c", SCRIPT, "libvirtd", self.place, self.root],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as process,
        ):
            try:
                deadline = time.monotonic() + SECONDS
                while not self.socket.exists():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise UnavailableError(f"no libvirtd runs here: {log.read_text()[-2000:]}")
                    time.sleep(0.05)
                yield
            finally:
                # unshare ignores what is not SIGKILL, and takes everything in its process name space with it
                process.kill()

    @contextlib.contextmanager
    def running_as_if_with_tdx(self) -> Iterator[None]:
        """Run it believing that its QEMU can run TDs, because it remembers so.

        What it remembers is void on a CPU with another number, which CPUID tells.
        """
        cpu = min(os.sched_getaffinity(0))
        with self.running(on_cpu=cpu):
            self.virsh("domcapabilities")
        for path in self.capabilities.glob("*.xml"):
            text = path.read_text()
            path.write_text(text.replace("<flag name=", "<flag name='tdx-guest'/><flag name=", 1))
        with self.running(on_cpu=cpu):
            yield

    def program(self, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program out of the private root."""
        loader = (self.root / LOADER, "--library-path", self.root / LIBRARIES)
        return subprocess.run(
            [*loader, self.root / "usr/bin" / name, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def virsh(self, *arguments: str | Path, uri: str = "") -> str:
        done = self.program("virsh", "-q", "-c", uri or self.uri, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def unpack(workshop: Workshop, place: Path) -> Path:
    """libvirt and QEMU of the suite under development."""
    return extract(workshop.apt(lambda archive: archive.unstable).fetch(PACKAGES), place)


def binding(workshop: Workshop, place: Path) -> Binding:
    """libvirt-python as it is installed, else the distribution's own for this Python, from a private root.

    Raises `UnavailableError` where that is of another Python version.
    """
    with contextlib.suppress(UnavailableError):
        return load()
    apt = workshop.apt(lambda archive: (archive.codename,))
    root = extract(apt.fetch(("python3-libvirt",)), place)
    modules = root / "usr/lib/python3/dist-packages"
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    if not list(modules.glob(f"libvirtmod.{tag}-*.so")):
        raise UnavailableError(f"the distribution's python3-libvirt is not for {tag}")
    _load_libraries(root, root / LIBRARIES / "libvirt-qemu.so.0")
    sys.path.append(str(modules))
    try:
        importlib.import_module("libvirt")
    finally:
        sys.path.remove(str(modules))
    return load()


def _load_libraries(root: Path, library: Path) -> None:
    """Load a library and what it needs out of `root`, so that a module that needs it finds it loaded."""
    paths = [root / LIBRARIES, root / "lib/x86_64-linux-gnu"]
    listing = subprocess.run(
        ["/lib64/ld-linux-x86-64.so.2", "--library-path", ":".join(map(str, paths)), "--list", library],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    ).stdout
    # What is needed stands behind what needs it.
    needed = re.findall(r"=> (\S+)", listing)[::-1]
    left = [*(path for path in needed if path.startswith(str(root))), str(library)]
    while left:
        failed = []
        for path in left:
            try:
                ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
            except OSError:
                failed.append(path)
        assert len(failed) < len(left), f"cannot be loaded: {failed}"
        left = failed
