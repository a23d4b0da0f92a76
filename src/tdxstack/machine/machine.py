"""One machine, for programs.

Every call that waits has a time-out, and an awaited twin: `vm.stop()`, `await vm.stop.aio()`.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.machine import console, control, readiness
from tdxstack.machine.control import ASK_SECONDS, NO_REBOOT, RebootMode, StopMode
from tdxstack.machine.events import Event, EventLog
from tdxstack.machine.instance import LONGEST_WAIT, until, why_ended, why_halted
from tdxstack.machine.readiness import OnLine, unseen
from tdxstack.machine.ssh import IN_GUEST, SSH_FAILED, Ssh
from tdxstack.machine.starting import start_machine
from tdxstack.machine.store import MachineFiles, MachineState, MachineStore
from tdxstack.machine.twin import twin
from tdxstack.run import Completed, Leash, run_async

START_SECONDS = 60.0
BOOT_SECONDS = 600.0
COMMAND_SECONDS = 600.0
DOWN_SECONDS = 60.0
MONITOR_SECONDS = 20.0

Programs = Callable[[str], Sequence[str]]
"""The argument vector with which a program of the host's begins (`ssh`, `scp`)."""


class Machine:
    """A machine that is there, running or not; see `tdxstack.workflows.machines` for how to make one.

    Methods raise `UsageError` where there is no such machine, `UnavailableError` where it does not run, and
    `CommandError` where QEMU, the guest or a program refuses, fails, or takes longer than `timeout` seconds.
    """

    def __init__(
        self,
        store: MachineStore,
        name: str,
        programs: Programs,
        clock: Callable[[], datetime],
        leash: Leash | None = None,
    ) -> None:
        self.name = name
        self._store = store
        self._programs = programs
        self._clock = clock
        self._leash = leash

    @property
    def files(self) -> MachineFiles:
        """Where everything that belongs to it lies."""
        return self._store.files(self.name)

    @property
    def record(self) -> MachineState:
        """What is remembered of it."""
        return self._store.load(self.name)

    @property
    def is_running(self) -> bool:
        """Whether its QEMU lives."""
        return self._store.is_running(self.name)

    @property
    def ssh(self) -> Ssh:
        """How it is entered. Raises `UnavailableError` where it does not run, or forwards no port."""
        self.require_running()
        port = self.record.ssh_port
        if not port:
            raise UnavailableError(
                f"machine {self.name!r} forwards no port to its guest's SSH",
                hint="give it the user network, or use the guest agent or the console",
            )
        return Ssh(tuple(self._programs("ssh")), port, self.files.ssh_key, self.files.known_hosts)

    @twin
    async def start(self, *, timeout: float = START_SECONDS) -> None:
        """Start it, with its disk as it was left; return once QEMU runs and answers.

        Raises `UsageError` where it runs already. It is ended where that takes longer than `timeout` seconds.
        """
        self._store.require(self.name)
        with self._store.claim(self.name):
            if self.is_running:
                hint = f"stop it first: tdx vm stop {self.name}"
                raise UsageError(f"machine {self.name!r} is running already", hint=hint)
            try:
                async with asyncio.timeout(timeout):
                    await start_machine(self._store, self.name, self._clock(), leash=self._leash)
            except TimeoutError:
                complaint = f"machine {self.name!r} had not started after {timeout:g} s"
                raise CommandError(complaint, hint=f"see {self.files.qemu_log}") from None

    @twin
    async def state(self) -> str:
        """`created`, `ended`, or QEMU's word for what it does: `running`, `paused`, `guest-panicked`, ..."""
        return await control.run_state(self._store, self.name)

    def why_halted(self) -> str:
        """Why its guest does not go on, as a clause; empty where it does, or nothing is known of it."""
        return why_halted(self.files)

    def why_ended(self) -> str:
        """Why it does not run any more, as a clause."""
        return why_ended(self.files)

    def events(self) -> list[Event]:
        """What QEMU has said of it since it was started, also while nobody looked."""
        return list(EventLog(self.files.events).read())

    def console_text(self) -> str:
        """What its guest has written on the serial console since it was started."""
        try:
            return self.files.console_log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def attach_console(self, keyboard: int, screen: int) -> None:
        """Join two file descriptors with its serial console until one of the three ends, or Ctrl-] comes."""
        self.require_running()
        console.attach(self.files.console_socket, keyboard, screen)

    @twin
    async def wait_for_state(self, *states: str, timeout: float = DOWN_SECONDS) -> str:
        """Wait until its state is one of `states`, and return it."""

        async def look() -> str:
            while (now := await control.run_state(self._store, self.name)) not in states:
                await asyncio.sleep(LONGEST_WAIT)
            return now

        try:
            return await asyncio.wait_for(look(), timeout)
        except TimeoutError:
            wanted = " or ".join(states)
            raise CommandError(
                f"machine {self.name!r} was not {wanted} after {timeout:g} s",
                hint=f"see: tdx vm show {self.name}",
            ) from None

    @twin
    async def wait_for_event(self, name: str, *, timeout: float = DOWN_SECONDS) -> Event:
        """Wait until QEMU has said `name` since the machine was started, and return the first such event."""
        found: list[Event] = []
        log = EventLog(self.files.events)

        def has_come() -> bool:
            found.extend(event for event in log.read() if event.name == name)
            return bool(found)

        await until(has_come, timeout, f"machine {self.name!r} had no event {name} within {timeout:g} s")
        return found[0]

    @twin
    async def wait_for_ssh(self, *, timeout: float = BOOT_SECONDS, on_line: OnLine = unseen) -> None:
        """Wait until the guest's SSH server greets; fails at once where the guest panics or ends."""
        await readiness.until_ready(self.files, self.ssh.port, timeout, on_line)

    @twin
    async def wait_for_agent(self, *, timeout: float = BOOT_SECONDS, on_line: OnLine = unseen) -> None:
        """Wait until the guest agent answers; fails at once where the guest panics or ends."""
        self.require_running()
        await readiness.until_agent(self.files, timeout, on_line)

    @twin
    async def run(
        self,
        words: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float = COMMAND_SECONDS,
        check: bool = True,
    ) -> Completed:
        """Run a program in the guest over SSH; its words arrive as they are.

        `input` is at most a pipe full (64 KiB). With `check`, a program that fails is a `CommandError`; a
        failure of SSH's own always is.
        """
        ssh = self.ssh
        argv = ssh.argv([shlex.join(words)], trust_new_key=self._is_new)
        done = await run_async(argv, input=input, timeout=timeout, check=False)
        if done.returncode == SSH_FAILED:
            said = done.stderr.decode(errors="replace").strip()
            raise CommandError(
                f"SSH to machine {self.name!r} failed: {said}",
                hint=f"see what the guest says: tdx vm log {self.name}",
            )
        if check and done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise CommandError(f"{words[0]} in machine {self.name!r} ended with {done.returncode}: {said}")
        return Completed(tuple(words), done.returncode, done.stdout, done.stderr)

    @twin
    async def copy_in(
        self, source: Path, target: str, *, recursive: bool = False, timeout: float = COMMAND_SECONDS
    ) -> None:
        """Copy a file, or with `recursive` a directory, into the guest."""
        await run_async(self.copy_command(source, target, into=True, recursive=recursive), timeout=timeout)

    @twin
    async def copy_out(
        self, source: str, target: Path, *, recursive: bool = False, timeout: float = COMMAND_SECONDS
    ) -> None:
        """Copy a file, or with `recursive` a directory, out of the guest."""
        await run_async(self.copy_command(target, source, into=False, recursive=recursive), timeout=timeout)

    def copy_command(
        self, outside: str | Path, inside: str, *, into: bool, recursive: bool = False
    ) -> list[str]:
        """The command that copies between a place of the host's and one in the guest."""
        places = str(outside), f"{IN_GUEST}{inside}"
        source, target = places if into else places[::-1]
        return self.ssh.copy_argv(
            self._programs("scp"), source, target, recursive=recursive, trust_new_key=self._is_new
        )

    @twin
    async def run_by_agent(
        self, words: Sequence[str], *, input: bytes = b"", timeout: float = COMMAND_SECONDS
    ) -> Completed:
        """Run a program in the guest by its agent; the first word is its path. Its failure is no error."""
        self.require_running()
        async with control.agent_of(self.files) as connection:
            return await connection.run(words, input=input, timeout=timeout)

    @twin
    async def suspend(self, *, timeout: float = MONITOR_SECONDS) -> None:
        """Halt the vCPUs; memory and connections stay."""
        await self._command("stop", timeout)

    @twin
    async def resume(self, *, timeout: float = MONITOR_SECONDS) -> None:
        """Let a halted machine go on."""
        await self._command("cont", timeout)

    @twin
    async def reboot(
        self,
        mode: RebootMode = RebootMode.SSH,
        *,
        timeout: float = BOOT_SECONDS,
        on_line: OnLine = unseen,
    ) -> None:
        """Start the guest anew and wait until it can be entered again.

        A TD is built and measured anew. Raises `UnavailableError` where that cannot be: upstream QEMU before
        11.0 ends a TD that is reset.
        """
        self.require_running()
        with self._store.claim(self.name):
            if NO_REBOOT in self.record.argv:
                raise UnavailableError(
                    f"machine {self.name!r} cannot be rebooted: its QEMU ends a TD then",
                    hint=f"stop it and start it: tdx vm stop {self.name}, then tdx vm start {self.name}",
                )
            mark = await control.reboot(self.files, mode, timeout, self._ask_to_reboot)
            await readiness.until_ready(self.files, self.record.ssh_port, timeout, on_line, mark)

    @twin
    async def stop(self, mode: StopMode | None = None, *, timeout: float = DOWN_SECONDS) -> None:
        """End it, and return once it has ended; its disk stays. Nothing happens where it does not run.

        Without a `mode`: the power button, after `timeout` seconds QEMU's monitor, and at last a signal. With
        one, nothing else; it is a `CommandError` where the machine then still runs.
        """
        with self._store.claim(self.name):
            await control.stop(self._store, self.name, mode, timeout)

    @twin
    async def remove(self, mode: StopMode | None = StopMode.FORCE, *, timeout: float = DOWN_SECONDS) -> None:
        """End it as `stop` does, by default without asking its guest, and delete all that is its own."""
        with self._store.claim(self.name):
            await control.stop(self._store, self.name, mode, timeout)
            self._store.remove(self.name)

    async def _command(self, name: str, timeout: float) -> None:
        self.require_running()
        with self._store.claim(self.name):
            await control.command(self.files, name, timeout)

    async def _ask_to_reboot(self) -> None:
        # A moment later, so that the answer still comes back: a guest that goes down drops it.
        # Left to itself, systemd is free to be a minute late (AccuracySec= in systemd.timer(5)).
        at = ["--on-active=1s", "--timer-property=AccuracySec=1ms"]
        words = ["systemd-run", "--quiet", *at, "systemctl", "reboot"]
        await self.run.aio(words, timeout=ASK_SECONDS)

    @property
    def _is_new(self) -> bool:
        """Whether the guest's host key has not been seen yet: the first one that it shows is remembered."""
        return not self.files.known_hosts.exists()

    def require_running(self) -> None:
        """Raise `UsageError` where there is no such machine, `UnavailableError` where it does not run."""
        started = self._store.load(self.name).started
        if not self.is_running:
            ended = f" any more: {self.why_ended()}" if started else ""
            raise UnavailableError(
                f"machine {self.name!r} is not running{ended}", hint=f"start it: tdx vm start {self.name}"
            )
