"""A guest of a kernel and one program, for tests that need no userland: it is up within seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tdxstack.image.initramfs import cpio
from tdxstack.machine.readiness import READY_LINE
from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.toolbox.apt import extract
from tdxstack.workflows.image_kernel import take_kernel
from tdxstack.workflows.workshop import Workshop

COMMAND_LINE = "console=ttyS0,115200 quiet panic=-1"
START = """\
#!/bin/busybox sh
busybox() { /bin/busybox "$@"; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
"""
FACTS = f"""\
echo
echo "cpus $(busybox nproc)"
echo "td $(busybox grep -c -w tdx_guest /proc/cpuinfo)"
if [ -e /sys/class/tpm/tpm0 ]; then
  echo "tpm $(busybox cat /sys/class/tpm/tpm0/tpm_version_major)"
  echo "pcr0 $(busybox cat /sys/class/tpm/tpm0/pcr-sha256/0)"
fi
echo "{READY_LINE}"
while :; do busybox sleep 3600; done
"""
"""What the guest does: tell the number of its CPUs, of those that say they are a TD's, and what it knows of a
TPM; then stay. An empty line comes first, as firmware does not end its last one."""


def small_guest(workshop: Workshop, directory: Path, commands: str = FACTS) -> DirectKernel:
    """The image's kernel, with an initrd that runs `commands`, a script for the distribution's busybox.

    Both are written to `directory`.
    """
    kernel = take_kernel(workshop.image(), directory).kernel
    initrd = directory / "small-initrd"
    with tempfile.TemporaryDirectory(dir=directory) as place:
        apt = workshop.apt(lambda archive: archive.stable)
        debs = apt.fetch(("busybox-static",), with_dependencies=False)
        busybox = (extract(debs, Path(place) / "root") / "usr/bin/busybox").read_bytes()
    script = START + commands
    files = {
        **dict.fromkeys(("bin", "dev", "proc", "sys")),
        "bin/busybox": busybox,
        "init": script.encode(),
    }
    initrd.write_bytes(cpio(files, {"bin/busybox", "init"}))
    return DirectKernel(kernel=kernel, initrd=initrd, command_line=COMMAND_LINE)
