"""What a machine without TDX can do instead."""

from __future__ import annotations

from tdxstack.host.check import Check, Circumstances, Finding, Purpose
from tdxstack.host_access import AbsentError, Host


class Emulator(Check):
    """The emulated platform."""

    id = "emulated.emulator"
    purpose = Purpose.EMULATE
    looks_at = "the emulators that have been built, apt-get"
    expected = "built, or can be built"
    why = (
        "Without TDX hardware, tdx up boots real firmware and kernels in an emulated TD, which is not "
        "protected."
    )
    fix = "use a machine with Debian 12 or 13 or Ubuntu 24.04, or build QEMU with the patches by hand"
    link = "https://www.qemu.org/docs/master/devel/tcg.html"

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        if circumstances.emulator:
            return self.ok(f"built: QEMU {circumstances.emulator}, emulated")
        try:
            host.program("apt-get")
        except AbsentError:
            return self.warn(
                "not built, and there is no apt-get", "the emulator's packages cannot be fetched here"
            )
        return self.ok("not built yet: tdx up or tdx emulator build does that")
