"""`tdx vm`: the group. Its commands are imported when they are used, so that the quick ones are quick."""

from __future__ import annotations

from typing import Any

import click

from tdxstack.cli import LazyGroup
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.errors import UsageError

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


class Places(LazyGroup):
    """Commands on machines here, or, with `--connect`, on those of a libvirt."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _of_libvirt().list_commands(ctx) if ctx.params.get("connect") else super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if not ctx.params.get("connect"):
            return super().get_command(ctx, cmd_name)
        found = _of_libvirt().get_command(ctx, cmd_name)
        if found is None and cmd_name in COMMANDS:
            raise UsageError(
                f"tdx vm {cmd_name} is for machines here, not for those of a libvirt",
                hint=f"with --connect there are: {', '.join(self.list_commands(ctx))}",
            )
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.option_name != "--connect":
                raise
            hint = f"say: tdx vm --connect URI {ctx.invoked_subcommand}"
            raise UsageError("--connect comes before the command", hint=hint) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if ctx.params.get("connect"):
            click.Group.format_commands(self, ctx, formatter)
        else:
            super().format_commands(ctx, formatter)


@click.group(cls=Places, table=COMMANDS)
@click.option(
    "--connect", metavar="URI", is_eager=True, help="Machines of the libvirt at URI, as qemu:///system."
)
@click.pass_context
def vm(ctx: click.Context, connect: str | None) -> None:
    """Make, list, show, enter and control machines."""
    # A libvirt may let root in only.
    if ctx.invoked_subcommand != "create" and connect is None:
        become_invoking_user()


def _of_libvirt() -> click.Group:
    from tdxstack.cli.vm_libvirt import libvirt

    return libvirt
