"""What a command on a machine would do, in the words that QEMU or the guest would be told."""

from __future__ import annotations

import json

from tdxstack.machine.control import RebootMode, StopMode
from tdxstack.machine.qemu_text import escape
from tdxstack.machine.store import MachineFiles, MachineState
from tdxstack.run import command_line


def start(files: MachineFiles, state: MachineState) -> list[str]:
    qgs = ["start the quote generation service of this user, unless it runs"] if state.quoting else []
    tpm = [command_line(state.tpm)] if state.tpm else []
    return [*qgs, *tpm, command_line(state.argv)]


def suspend(files: MachineFiles) -> list[str]:
    return [_qmp(files, "stop")]


def resume(files: MachineFiles) -> list[str]:
    return [_qmp(files, "cont")]


def stop(files: MachineFiles, mode: StopMode | None, timeout: float) -> list[str]:
    wait = f"wait up to {timeout:g} s for its process to end"
    powerdown, quit_it = _qmp(files, "system_powerdown"), _qmp(files, "quit")
    agent = _agent(files, "powerdown")
    signals = "if it still runs: SIGTERM, then SIGKILL, to its process"
    return {
        None: [powerdown, wait, quit_it, signals],
        StopMode.ACPI: [powerdown, wait],
        StopMode.AGENT: [agent, wait],
        StopMode.QMP: [quit_it, wait],
        StopMode.FORCE: [quit_it, signals],
    }[mode]


def reboot(files: MachineFiles, mode: RebootMode, timeout: float) -> list[str]:
    agent = _agent(files, "reboot")
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


def debug(files: MachineFiles, *, stop: bool) -> list[str]:
    if stop:
        return [_monitor_line(files, "gdbserver none"), _qmp(files, "cont")]
    asked = "by SSH: the version of the kernel, and where it is (/proc/kallsyms)"
    return [asked, _monitor_line(files, f"gdbserver unix:{escape(files.gdb)},server=on,wait=off")]


def memory_check(files: MachineFiles) -> list[str]:
    dump = _qmp(files, "dump-guest-memory", paging=False, protocol="fd:tdx-dump")
    return [
        "by SSH: write a random secret into a file in the guest's memory",
        f"{dump}, into a pipe that is searched",
        "by SSH: remove the file",
        "the same with an ordinary machine that is launched for it, and removed",
    ]


def _monitor_line(files: MachineFiles, line: str) -> str:
    return _qmp(files, "human-monitor-command", **{"command-line": line})


def _agent(files: MachineFiles, mode: str) -> str:
    request = {"execute": "guest-shutdown", "arguments": {"mode": mode}}
    return f"guest agent at {files.agent}: {json.dumps(request)}"


def _qmp(files: MachineFiles, command: str, **arguments: object) -> str:
    request: dict[str, object] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    return f"QMP at {files.monitor}: {json.dumps(request)}"
