"""From a specification to what is written down of a machine, from which it can be started again and again."""

from __future__ import annotations

from tdxstack.machine.instance import event_log_options
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.store import MachineFiles, MachineState


def state_of(spec: MachineSpec, placement: Placement, files: MachineFiles) -> MachineState:
    """What is remembered of a machine before its first start. Raises as `build_qemu_command` does."""
    return MachineState(
        name=spec.name,
        platform=placement.platform.value,
        emulated=placement.silicon is not None,
        pid=0,
        ssh_port=0,
        started="",
        argv=[*build_qemu_command(spec, placement, files), *event_log_options(files)],
        kind=spec.kind.value,
        quoting=placement.silicon is not None and spec.td.quote_service is None,
        pinning={str(vcpu): list(cpus) for vcpu, cpus in spec.pinning.items()},
    )
