"""`tdx vm`: the group. Its commands are imported when they are used, so that the quick ones are quick."""

from __future__ import annotations

import click

from tdxstack.cli import LazyGroup
from tdxstack.cli.sudo import become_invoking_user

COMMANDS = {
    "create": ("tdxstack.cli.vm_create:create", "Make a machine of a specification, or of options."),
    "start": ("tdxstack.cli.vm_control:start", "Start machines, with their disks as they were left."),
    "list": ("tdxstack.cli.vm_show:list_machines", "List the machines and what they do."),
    "show": ("tdxstack.cli.vm_show:show", "Show one machine."),
    "events": ("tdxstack.cli.vm_show:events", "Print what QEMU has said of a machine."),
    "log": ("tdxstack.cli.vm_show:log", "Print what a machine has written on its console."),
    "ssh": ("tdxstack.cli.vm_enter:ssh", "Enter a machine by SSH, or run a command in it."),
    "exec": ("tdxstack.cli.vm_enter:exec_", "Run a command in a machine, without a terminal."),
    "cp": ("tdxstack.cli.vm_enter:cp", "Copy files into a machine or out of it."),
    "console": ("tdxstack.cli.vm_enter:console", "Join this terminal with a machine's console."),
    "suspend": ("tdxstack.cli.vm_control:suspend", "Halt machines' vCPUs; their memory stays."),
    "resume": ("tdxstack.cli.vm_control:resume", "Let halted machines go on."),
    "reboot": ("tdxstack.cli.vm_control:reboot", "Reboot machines, and wait until they can be entered."),
    "stop": ("tdxstack.cli.vm_control:stop", "Stop machines; their disks and logs stay."),
    "rm": ("tdxstack.cli.vm_control:rm", "Remove machines that have ended, with their disks."),
    "export": ("tdxstack.cli.vm_export:export", "Print what would run: QEMU, libvirt or KubeVirt."),
    "debug": ("tdxstack.cli.vm_inspect:debug", "Open QEMU's gdb stub for a machine."),
    "memory-check": (
        "tdxstack.cli.vm_inspect:memory_check",
        "Say whether the VMM can read a machine's memory.",
    ),
}


@click.group(cls=LazyGroup, table=COMMANDS)
@click.pass_context
def vm(ctx: click.Context) -> None:
    """Make, list, show, enter and control machines."""
    if ctx.invoked_subcommand != "create":
        become_invoking_user()
