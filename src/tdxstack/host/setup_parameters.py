"""Kernel parameters: the step that sets them, in the way of the boot loader's own tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tdxstack.host.setup_steps import CommandStep, FileStep, Step
from tdxstack.host.setup_system import System

WANTED: Final = ("nohibernate", "kvm_intel.tdx=1")
"""The kernel keeps TDX off while it can hibernate; KVM's parameter is off by default."""

GRUB_DROP_IN: Final = "/etc/default/grub.d/60-tdxstack.cfg"
KERNEL_COMMAND_LINE: Final = "/etc/kernel/cmdline"
MODPROBE_DROP_IN: Final = "/etc/modprobe.d/60-tdxstack.conf"

_ID: Final = "kernel.parameters"
_WHY: Final = "TDX needs hibernation off and KVM's parameter tdx on"


def running_without(system: System) -> list[str]:
    """The wanted parameters that the running kernel was not booted with."""
    words = (system.read("/proc/cmdline") or b"").decode("utf-8", "replace").split()
    return [parameter for parameter in WANTED if parameter not in words]


def parameters_step(system: System) -> tuple[Step | None, str]:
    """The step that is left to do, None where nothing is; or why there is none."""
    if system.has("update-grub"):
        return _grub_drop_in(system), ""
    if system.has("grubby"):
        return _grubby(system), ""
    if system.has("sdbootutil") and system.read(KERNEL_COMMAND_LINE) is not None:
        return _sdbootutil(system), ""
    if system.has("pbl"):
        return _pbl(system), ""
    tools = "update-grub, grubby, sdbootutil or pbl"
    return None, f"no tool for kernel parameters is here ({tools}): add {' '.join(WANTED)} yourself"


def modprobe_step(system: System) -> Step | None:
    """KVM's parameter for when kvm_intel is loaded by hand or anew."""
    before = system.read(MODPROBE_DROP_IN)
    after = (
        b"# Written by tdx host setup: KVM offers TDs only with this parameter.\noptions kvm_intel tdx=1\n"
    )
    if before == after:
        return None
    return FileStep("kvm.parameter", "KVM's parameter tdx is off by default", MODPROBE_DROP_IN, before, after)


def _grub_drop_in(system: System) -> Step | None:
    elsewhere = _words(system, "/etc/default/grub")
    for name in system.names("/etc/default/grub.d"):
        path = f"/etc/default/grub.d/{name}"
        if path != GRUB_DROP_IN and name.endswith(".cfg"):
            elsewhere |= _words(system, path)
    missing = [parameter for parameter in WANTED if parameter not in elsewhere]
    before = system.read(GRUB_DROP_IN)
    line = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(missing)}"\n'
    after = f"# Written by tdx host setup; sourced after /etc/default/grub.\n{line}".encode()
    if not missing or before == after:
        return None
    return FileStep(_ID, _WHY, GRUB_DROP_IN, before, after, ("update-grub",))


def _grubby(system: System) -> Step | None:
    answer = system.ask(["grubby", "--info=DEFAULT"]).stdout
    line = next((line for line in answer.splitlines() if line.startswith("args=")), "")
    present = line.removeprefix("args=").strip('"').split()
    missing = [parameter for parameter in WANTED if parameter not in present]
    if not missing:
        return None
    words = " ".join(missing)
    return CommandStep(
        _ID,
        _WHY,
        ("grubby", "--update-kernel=ALL", f"--args={words}"),
        ("grubby", "--update-kernel=ALL", f"--remove-args={words}"),
    )


def _sdbootutil(system: System) -> Step | None:
    before = system.read(KERNEL_COMMAND_LINE) or b""
    missing = [parameter.encode() for parameter in WANTED if parameter.encode() not in before.split()]
    if not missing:
        return None
    after = b" ".join([before.rstrip(), *missing]).strip() + b"\n"
    update = ("sdbootutil", "update-all-entries")
    return FileStep(_ID, _WHY, KERNEL_COMMAND_LINE, before, after, update)


def _pbl(system: System) -> Step | None:
    words = _words(system, "/etc/default/grub")
    missing = [parameter for parameter in WANTED if parameter not in words]
    if not missing:
        return None
    names = [parameter.partition("=")[0] for parameter in missing]
    return CommandStep(_ID, _WHY, _pbl_command("--add-option", missing), _pbl_command("--del-option", names))


def _pbl_command(option: str, parameters: Sequence[str]) -> tuple[str, ...]:
    return ("pbl", *(word for parameter in parameters for word in (option, parameter)), "--config")


def _words(system: System, path: str) -> set[str]:
    """The words of the assignments in a shell file, without comments and quotes."""
    text = (system.read(path) or b"").decode("utf-8", "replace")
    lines = [line.partition("=")[2] for line in text.splitlines() if not line.lstrip().startswith("#")]
    return {word for line in lines for word in line.replace('"', " ").replace("'", " ").split()}
