"""What makes TDs slow without keeping them from running."""

from __future__ import annotations

import re

from tdxstack.host.check import Check, Circumstances, Finding, Purpose, exists, optional
from tdxstack.host_access import Host

VHOST_DEVICES = ("/dev/vhost-net", "/dev/vhost-vsock")


class HugePages(Check):
    """Transparent huge pages."""

    id = "tuning.huge_pages"
    purpose = Purpose.ADVICE
    looks_at = "/sys/kernel/mm/transparent_hugepage/enabled"
    expected = "always or madvise"
    why = "The shared memory of TDs, and all memory of ordinary guests, is mapped in small pages otherwise."
    fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    link = "https://docs.kernel.org/admin-guide/mm/transhuge.html"
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        chosen = re.search(r"\[(\w+)\]", optional(host, "/sys/kernel/mm/transparent_hugepage/enabled"))
        if chosen is None:
            return self.skip("this kernel has no transparent huge pages")
        if chosen[1] == "never":
            return self.warn("never", "transparent huge pages are off")
        return self.ok(chosen[1])


class Vhost(Check):
    """Networking and vsock in the kernel."""

    id = "tuning.vhost"
    purpose = Purpose.ADVICE
    looks_at = " and ".join(VHOST_DEVICES)
    expected = "both devices exist"
    why = "A TD's network goes through bounce buffers; without vhost every packet also wakes QEMU."
    fix = "sudo modprobe -a vhost_net vhost_vsock"
    link = "https://github.com/canonical/tdx/issues/128"
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        missing = [device for device in VHOST_DEVICES if not exists(host, device)]
        if missing:
            return self.warn(f"missing: {', '.join(missing)}", f"there is no {' and no '.join(missing)}")
        return self.ok("both exist")


class Numa(Check):
    """Automatic balancing between nodes."""

    id = "tuning.numa"
    purpose = Purpose.ADVICE
    looks_at = "/sys/devices/system/node, /proc/sys/kernel/numa_balancing"
    expected = "one node, or automatic balancing off"
    why = (
        "Private pages of a TD cannot move between nodes; balancing only takes its mappings away and gives "
        "them back."
    )
    fix = "echo 0 | sudo tee /proc/sys/kernel/numa_balancing; pin vCPUs and memory of large TDs to one node"
    link = "https://docs.kernel.org/admin-guide/sysctl/kernel.html#numa-balancing"
    needs = ("machine.kind",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        nodes = [name for name in host.entries("/sys/devices/system/node") if re.fullmatch(r"node\d+", name)]
        balancing = optional(host, "/proc/sys/kernel/numa_balancing")
        found = f"{len(nodes)} nodes, balancing {balancing or 'unknown'}"
        if len(nodes) > 1 and balancing not in ("", "0"):
            return self.warn(
                found, "the kernel moves memory between nodes by itself, which private memory cannot do"
            )
        return self.ok(found)
