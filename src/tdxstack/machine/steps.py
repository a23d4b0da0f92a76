"""What a command on a machine would do, in the words that QEMU or the guest would be told."""

from __future__ import annotations

import json

from tdxstack.machine.control import RebootMode, StopMode
from tdxstack.machine.store import MachineFiles


def suspend(files: MachineFiles) -> list[str]:
    return [_qmp(files, "stop")]


def resume(files: MachineFiles) -> list[str]:
    return [_qmp(files, "cont")]


def stop(files: MachineFiles, mode: StopMode | None, timeout: float) -> list[str]:
    wait = f"wait up to {timeout:g} s for its process to end"
    powerdown, quit_it = _qmp(files, "system_powerdown"), _qmp(files, "quit")
    agent = (
        f'guest agent at {files.agent}: {{"execute": "guest-shutdown", "arguments": {{"mode": "powerdown"}}}}'
    )
    signals = "if it still runs: SIGTERM, then SIGKILL, to its process"
    return {
        None: [powerdown, wait, quit_it, signals],
        StopMode.ACPI: [powerdown, wait],
        StopMode.AGENT: [agent, wait],
        StopMode.QMP: [quit_it, wait],
        StopMode.FORCE: [quit_it, signals],
    }[mode]


def reboot(files: MachineFiles, mode: RebootMode, timeout: float) -> list[str]:
    agent = (
        f'guest agent at {files.agent}: {{"execute": "guest-shutdown", "arguments": {{"mode": "reboot"}}}}'
    )
    asked = {
        RebootMode.SSH: ["by SSH: systemctl reboot"],
        RebootMode.AGENT: [agent],
        RebootMode.QMP: [_qmp(files, "system_reset")],
        RebootMode.ACPI: [
            _qmp(files, "set-action", shutdown="pause"),
            _qmp(files, "system_powerdown"),
            "wait for the event SHUTDOWN",
            _qmp(files, "system_reset"),
            _qmp(files, "cont"),
            _qmp(files, "set-action", shutdown="poweroff"),
        ],
    }[mode]
    return [*asked, f"wait up to {timeout:g} s until the guest's SSH server greets"]


def remove(files: MachineFiles) -> list[str]:
    return [f"delete {files.directory}", f"delete {files.runtime}"]


def _qmp(files: MachineFiles, command: str, **arguments: object) -> str:
    request: dict[str, object] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    return f"QMP at {files.monitor}: {json.dumps(request)}"
