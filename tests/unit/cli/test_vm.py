"""`tdx vm` without a QEMU: what is shown, planned and refused."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack import cli
from tdxstack.cli import vm_create, vm_enter, vm_show
from tdxstack.cli.vm import COMMANDS
from tdxstack.files import Directories, lock
from tdxstack.machine.machine import Machine
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.run import Completed

STATE = MachineState("one", "emulated", True, 0, 1, "2026-01-01T00:00:00+00:00", ["qemu", "-smp", "2"])

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineStore:
    """Two machines that have ended."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "r"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    store = MachineStore(Directories(tmp_path / "c", tmp_path / "d/tdxstack", tmp_path / "r/tdxstack"))
    for name in ("one", "two"):
        store.prepare(name)
        store.save(replace(STATE, name=name))
    return store


@pytest.fixture
def running(store: MachineStore) -> Iterator[MachineStore]:
    with lock(store.files("one").lock), lock(store.files("two").lock):
        yield store


@pytest.fixture
def command(store: MachineStore, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; gives its exit code and both outputs."""

    def run(*words: str) -> tuple[int, str, str]:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
            try:
                cli.main(list(words))
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        out, err = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, out, err

    return run


def says(store: MachineStore, event: str, **data: object) -> None:
    """The QEMU of `one` has said so, in the second second of 1970."""
    document = {"event": event, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}}
    store.files("one").events.write_text(json.dumps(document) + "\n")


def test_machines_are_listed_with_what_they_do(command: Command, store: MachineStore) -> None:
    store.save(replace(STATE, name="two", started=""))
    _, out, _ = command("vm", "list", "--json")
    machines = json.loads(out)["machines"]
    assert [(machine["name"], machine["state"], machine["running"]) for machine in machines] == [
        ("one", "ended", False),
        ("two", "created", False),
    ]
    assert "created" in command("vm", "list")[1]


def test_machine_that_goes_while_the_others_are_listed_is_left_out(
    command: Command, store: MachineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def names() -> list[str]:
        asked.append(["gone", *store.names()] if not asked else store.names())
        return asked[-1]

    monkeypatch.setattr(vm_show, "machine_names", names)
    machines = json.loads(command("vm", "list", "--json")[1])["machines"]
    assert [machine["name"] for machine in machines] == ["one", "two"]


def test_machine_whose_state_is_damaged_keeps_no_other_from_being_listed(
    command: Command, store: MachineStore
) -> None:
    store.files("one").state.write_text("nonsense")
    document = json.loads(command("vm", "list", "--json")[1])
    assert [machine["name"] for machine in document["machines"]] == ["two"]
    (problem,) = document["problems"]
    assert "one/state.json is not a machine's state" in problem
    code, out, err = command("vm", "list")
    assert (code, "two" in out) == (0, True)
    assert err.startswith("warning: ")
    assert "tdx down one" in err


def test_machine_that_waits_for_space_is_shown_with_the_reason(
    command: Command, running: MachineStore
) -> None:
    full = {
        "action": "stop",
        "node-name": "disk0",
        "operation": "write",
        "reason": "No space",
        "nospace": True,
    }
    says(running, "BLOCK_IO_ERROR", **full)
    document = json.loads(command("vm", "show", "one", "--json")[1])
    assert document["halted"].startswith("a write of disk0 has failed (No space)")
    assert "halted" not in json.loads(command("vm", "show", "two", "--json")[1])


def test_ended_machine_is_shown_with_the_reason(command: Command, store: MachineStore) -> None:
    says(store, "SHUTDOWN", reason="guest-panic")
    document = json.loads(command("vm", "show", "one", "--json")[1])
    assert document["ended"] == "the machine has shut down: the guest has panicked"
    assert "the guest has panicked" in command("vm", "show", "one")[1]


def test_events_are_told_and_explained(command: Command, store: MachineStore) -> None:
    info = {"type": "tdx", "error-code": 0, "message": "no\x1b[31m luck"}
    says(store, "GUEST_PANICKED", info=info)
    code, out, _ = command("vm", "events", "one", "--follow")
    assert code == 0
    assert out.startswith("1970-01-01T00:00:01.000+00:00  GUEST_PANICKED")
    assert out.endswith("the TD has reported a fatal error, a panic: 'no luck'\n")
    assert "\x1b" not in out
    assert json.loads(command("vm", "events", "one", "--json")[1])["data"]["info"] == info


def test_log_has_the_last_line_too(command: Command, store: MachineStore) -> None:
    store.files("one").console_log.write_text("firmware\nlogin: ")
    assert command("vm", "log", "one")[1] == "firmware\nlogin: \n"


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["start"], ["qemu -smp 2"]),
        (["suspend"], ['QMP at {qmp}: {"execute": "stop"}']),
        (["resume"], ['QMP at {qmp}: {"execute": "cont"}']),
        (["stop", "--mode", "qmp", "--timeout", "9"],
         ['QMP at {qmp}: {"execute": "quit"}', "wait up to 9 s for its process to end"]),
        (["stop", "--force"],
         ['QMP at {qmp}: {"execute": "quit"}', "if it still runs: SIGTERM, then SIGKILL, to its process"]),
        (["reboot", "--force", "--timeout", "9"],
         ['QMP at {qmp}: {"execute": "system_reset"}', "wait up to 9 s until the guest's SSH server greets"]),
        (["rm"], ["delete {files}", "delete {runtime}"]),
    ],
)  # fmt: skip
def test_dry_run_says_what_would_be_done_and_does_nothing(
    command: Command, store: MachineStore, words: list[str], steps: list[str]
) -> None:
    files = store.files("one")
    known = {"{qmp}": files.monitor, "{files}": files.directory, "{runtime}": files.runtime}
    for place, path in known.items():
        steps = [step.replace(place, str(path)) for step in steps]
    code, out, err = command("vm", *words, "--dry-run", "one")
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"would  one: {step}" for step in steps]
    document = json.loads(command("vm", *words, "--dry-run", "--json", "one")[1])
    assert document == {"steps": [{"machine": "one", "text": step} for step in steps]}
    assert store.names() == ["one", "two"]


@pytest.mark.parametrize("verb", ["stop", "reboot", "memory-check", "debug", "suspend"])
def test_every_verb_can_be_tried(command: Command, verb: str) -> None:
    assert command("vm", verb, "--dry-run", "one")[1].startswith("would  one: ")


def test_many_machines_are_removed_at_once(command: Command, store: MachineStore) -> None:
    assert json.loads(command("vm", "rm", "one", "two", "one", "--json")[1]) == {"removed": ["one", "two"]}
    assert store.names() == []


def test_running_machines_are_not_removed(command: Command, running: MachineStore) -> None:
    code, _, err = command("vm", "rm", "one", "two")
    assert code == 3
    assert "machine 'one' is running\nhint: stop it first: tdx vm stop one two" in err
    assert running.names() == ["one", "two"]


def test_failures_of_many_are_all_told(command: Command, store: MachineStore) -> None:
    code, _, err = command("vm", "suspend", "one", "two")
    assert code == 3
    assert "2 of 2 machines: one: machine 'one' is not running any more" in err
    assert "two: machine 'two' is not running any more" in err
    code, _, err = command("vm", "suspend", "one")
    assert "error: machine 'one' is not running any more" in err


def test_one_unknown_name_keeps_the_others_untouched(command: Command, store: MachineStore) -> None:
    code, _, err = command("vm", "rm", "one", "ghost")
    assert (code, store.names()) == (2, ["one", "two"])
    assert "there is no machine 'ghost'" in err


def test_machine_in_use_by_another_command(command: Command, store: MachineStore) -> None:
    with store.claim("one"):
        code, _, err = command("vm", "start", "one")
    assert code == 3
    assert "machine 'one' is in use by another process" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "vcpus"], 2, "--set 'vcpus' is not FIELD=VALUE"),
        (["--set", "vcpus=0", "--set", "td.speed=1"], 2, "vcpus: 0 vCPUs is out of range"),
        (["--set", "kind.deep=1"], 2, "kind"),
        (["--memory", "1X"], 2, "'1X' is no size"),
        (["/absent.yaml"], 2, "/absent.yaml"),
    ],
)
def test_what_cannot_be_made(
    command: Command, store: MachineStore, words: list[str], code: int, message: str
) -> None:
    done = command("vm", "create", "--dry-run", *words)
    assert done[0] == code
    assert message in done[2]
    assert store.names() == ["one", "two"]


def test_create_says_what_is_made_and_how_to_start_it(
    command: Command, store: MachineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def create(self, spec: MachineSpec, *, no_kaslr: bool) -> Machine:
            return Machine(store, spec.name, lambda name: [name], lambda: datetime(2026, 1, 1, tzinfo=UTC))

    monkeypatch.setattr(vm_create, "prepare_host", lambda *_, **__: None)
    monkeypatch.setattr(vm_create, "Machines", Made)
    code, out, _ = command("vm", "create", "--name", "one")
    assert (code, out) == (0, "made one; start it: tdx vm start one\n")
    assert json.loads(command("vm", "create", "--name", "one", "--json")[1])["name"] == "one"


@pytest.mark.parametrize(("guest", "code"), [(0, 0), (7, 7), (-9, 137)])
def test_exec_ends_as_the_command_in_the_guest(
    command: Command, monkeypatch: pytest.MonkeyPatch, guest: int, code: int
) -> None:
    class Agent:
        def run_by_agent(self, words: tuple[str, ...], timeout: float) -> Completed:
            return Completed(words, guest, b"said\n", b"")

    monkeypatch.setattr(vm_enter, "open_machine", lambda name: Agent())
    assert command("vm", "exec", "--agent", "one", "/bin/true")[:2] == (code, "said\n")
    done = command("vm", "exec", "--agent", "--json", "one", "/bin/true")
    assert (done[0], json.loads(done[1])["exit_code"]) == (0, guest)


def test_copy_names_one_machine(command: Command, store: MachineStore) -> None:
    code, _, err = command("vm", "cp", "here", "ghost:there")
    assert code == 2
    assert "one of 'here' and 'ghost:there' must be NAME:PATH of a machine" in err


def test_every_command_of_the_group_is_there(command: Command) -> None:
    for name in COMMANDS:
        code, out, _ = command("vm", name, "--help")
        assert (code, out.startswith(f"Usage: tdx vm {name} ")) == (0, True)
