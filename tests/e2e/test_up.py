"""The main job, end to end, in emulated TDs."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tdxstack.abi.quote import Quote
from tdxstack.testing.runner import Recording, Tdx, wait_for

STATUSES = {"ok", "fail", "warning", "not_applicable", "unknown"}


def failed(document: dict[str, Any]) -> set[str]:
    return {check["id"] for check in document["checks"] if check["status"] in ("fail", "unknown")}


def test_boot_is_accepted_and_marked_emulated(recording: Recording) -> None:
    document = recording.document
    assert document["verdict"] == "accepted"
    assert document["emulated"] is True
    assert failed(document) == set()
    assert {check["status"] for check in document["checks"]} <= STATUSES
    assert all(set(check) == {"id", "status", "expected", "found", "detail"} for check in document["checks"])


def test_document_has_the_promised_keys(recording: Recording) -> None:
    document = recording.document
    assert set(document) >= {
        "verdict", "platform", "components", "emulated", "registers", "checks", "phases", "machine",
    }  # fmt: skip
    assert set(document["registers"]) == {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    for register in document["registers"].values():
        assert register["match"] is True
        assert register["expected"] == register["measured"]
    assert len(document["registers"]["mrtd"]["measured"]) == 96
    assert document["registers"]["rtmr0"]["measured"] != "00" * 48


def test_machine_runs_on_and_can_be_entered(tdx: Tdx, recording: Recording) -> None:
    assert tdx.run("vm", "ssh", "recorded", "systemd-detect-virt", "--cvm").stdout.strip() == "tdx"
    assert tdx.json("vm", "show", "recorded")["running"] is True


def test_secure_boot_chain_is_the_one_people_run(tdx: Tdx, recording: Recording) -> None:
    log = tdx.json("evidence", "show", "recorded")["events"]
    images = [event for event in log if event["type"] == "EV_EFI_BOOT_SERVICES_APPLICATION"]
    assert len(images) == 3, "shim, GRUB and the kernel"
    assert any(event["meaning"] == "variable SecureBoot: on" for event in log)
    assert any("MokList" in event["meaning"] for event in log), "what shim measures"


def test_root_has_no_password(tdx: Tdx, recording: Recording) -> None:
    shadow = tdx.run("vm", "ssh", "recorded", "cat", "/etc/shadow").stdout
    assert all(line.split(":")[1][:1] in ("*", "!") for line in shadow.splitlines())


def test_keys_and_sockets_are_their_owners_only(recording: Recording) -> None:
    for path in [
        recording.data / "pki",
        *(recording.data / "pki").glob("*.key"),
        recording.files / "ssh_key",
    ]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_secret_is_in_an_argument_vector(recording: Recording) -> None:
    words = " ".join(recording.document["machine"]["argv"])
    mac_key = (recording.data / "pki/report-mac.key").read_bytes()
    assert mac_key.hex() not in words
    assert base64.b64encode(mac_key).decode() not in words


def test_evidence_verifies_again_offline(tdx: Tdx, recording: Recording) -> None:
    assert tdx.run(*offline(recording), "--allow", "emulated").stdout.rstrip().count("accepted") == 1


def test_trust_anchor_alone_does_not_allow_emulated_evidence(tdx: Tdx, recording: Recording) -> None:
    document = tdx.json(*offline(recording), code=1)
    assert document["verdict"] == "rejected"
    assert failed(document) == {"emulated.allowed"}


def test_old_evidence_under_a_new_nonce_is_refused(tdx: Tdx, recording: Recording) -> None:
    words = offline(recording)
    words[words.index("--nonce") + 1] = "11" * 32
    document = tdx.json(*words, "--allow", "emulated", code=1)
    assert failed(document) == {"evidence.nonce"}


def test_debug_td_is_refused(tdx: Tdx, recording: Recording) -> None:
    document = tdx.json("up", "--name", "debug", "--platform", "emulated", "--debug", code=1)
    assert document["verdict"] == "rejected"
    assert failed(document) == {"td.debug"}
    tdx.run("down", "debug")
    assert "debug" not in tdx.machines()


@pytest.mark.parametrize(
    ("vcpus", "options"), [("4", ()), ("1", ("--ve", "--sept", "on")), ("4", ("--ve", "--sept", "on"))]
)
def test_strict_emulation_and_many_cpus(
    tdx: Tdx, recording: Recording, vcpus: str, options: tuple[str, ...]
) -> None:
    document = tdx.json("up", "--name", "strict", "--platform", "emulated", "--vcpus", vcpus, *options)
    assert document["verdict"] == "accepted"
    assert tdx.run("vm", "ssh", "strict", "nproc").stdout.strip() == vcpus
    tdx.run("down", "strict")


def test_second_machine_of_a_name_is_refused(tdx: Tdx, recording: Recording) -> None:
    done = tdx.run("up", "--name", "recorded", "--platform", "emulated", code=2)
    assert "error: machine 'recorded' is running already" in done.stderr
    assert "hint: " in done.stderr


def test_failed_boot_keeps_the_logs_that_its_error_names(tdx: Tdx, recording: Recording) -> None:
    with tdx.started("up", "--name", "failed", "--platform", "emulated") as process:
        wait_for(lambda: "failed" in tdx.machines())
        wait_for(lambda: tdx.json("vm", "show", "failed")["ssh_port"])
        os.kill(tdx.json("vm", "show", "failed")["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "error: the guest did not become ready: QEMU has ended" in errors
    assert Path(errors.strip().rsplit("see ", 1)[1]).is_file()
    assert tdx.json("vm", "show", "failed")["running"] is False
    tdx.run("down", "failed")
    assert "failed" not in tdx.machines()


def test_second_command_for_a_name_hurts_nothing(tdx: Tdx, recording: Recording) -> None:
    with tdx.started("up", "--name", "contended", "--platform", "emulated") as process:
        wait_for((tdx.runtime / "tdxstack/machines/contended/qmp").exists)
        for words in (("up", "--name", "contended", "--platform", "emulated"), ("down", "contended")):
            assert "in use by another process" in tdx.run(*words, code=3).stderr
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "accepted" in output
    tdx.run("down", "contended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_machine(tdx: Tdx, recording: Recording, number: signal.Signals) -> None:
    with tdx.started("up", "--name", "interrupted", "--platform", "emulated") as process:
        wait_for((tdx.runtime / "tdxstack/machines/interrupted/qmp").exists)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("error: interrupted\n")
    assert "interrupted" not in tdx.machines()
    assert not tdx.files("interrupted").exists()
    wait_for(lambda: not qemu_processes("tdx-interrupted"), seconds=10)


def test_guest_side_says_where_the_quote_came_from(tdx: Tdx, recording: Recording) -> None:
    document = json.loads(tdx.run("vm", "ssh", "recorded", "tdx-guest", "check").stdout)
    assert {check["status"] for check in document["checks"]} == {"ok"}
    words = ("vm", "ssh", "recorded", "tdx-guest", "quote", "--report-data", "abcd")
    document = json.loads(tdx.run(*words).stdout)
    assert (document["via"], document["provider"]) == ("configfs", "tdx_guest")
    assert Quote.parse(base64.b64decode(document["quote"])).body.report_data[:2] == b"\xab\xcd"
    assert "no quote over vsock 2:4050" in tdx.run(*words, "--via", "vsock", code=3).stderr


def test_register_that_software_extends_is_told(tdx: Tdx, recording: Recording, tmp_path: Path) -> None:
    """After everything that takes new evidence of the recorded machine: RTMR3 stays changed."""
    guest = ("vm", "ssh", "recorded", "tdx-guest")
    extend = (*guest, "extend", "--rtmr", "3", "--file", "/etc/os-release")
    planned = json.loads(tdx.run(*extend, "--dry-run").stdout)
    done = json.loads(tdx.run(*extend).stdout)
    assert planned == done
    assert done["before"] == "00" * 48
    nonce = "22" * 32
    (tmp_path / "evidence.json").write_text(tdx.run(*guest, "collect", "--nonce", nonce).stdout)
    words = offline(recording)
    words[2], words[words.index("--nonce") + 1] = str(tmp_path / "evidence.json"), nonce
    document = tdx.json(*words, "--allow", "emulated", code=1)
    assert failed(document) == {"rtmr3"}
    assert document["registers"]["rtmr3"]["measured"] == done["after"]
    accepted = tdx.json(*words, "--allow", "emulated", "--rtmr3", done["after"])
    assert failed(accepted) == set()


def test_killed_machine_is_told_from_a_running_one(tdx: Tdx, recording: Recording) -> None:
    """Last of all: ends the recorded machine, and with it the last user of the QGS.

    Machines that tests share are started again by the next one that needs them.
    """
    for machine in tdx.json("vm", "list")["machines"]:
        if machine["running"] and machine["name"] != "recorded":
            tdx.run("vm", "stop", machine["name"], "--force")
    qgs = tdx.runtime / "tdxstack/qgs.sock"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(qgs))
    os.kill(tdx.json("vm", "show", "recorded")["pid"], signal.SIGKILL)
    wait_for(lambda: tdx.json("vm", "show", "recorded")["running"] is False)
    wait_for(lambda: not qgs.exists())
    done = tdx.run("vm", "ssh", "recorded", "true", code=3)
    assert "is not running" in done.stderr
    tdx.run("down", "recorded")


def offline(recording: Recording) -> list[str]:
    """`tdx evidence verify` of the recording, as a relying party with the files would call it."""
    evidence = json.loads((recording.files / "evidence.json").read_text())
    argv = recording.document["machine"]["argv"]
    return [
        "evidence", "verify", str(recording.files / "evidence.json"),
        "--nonce", evidence["nonce"],
        "--firmware", argv[argv.index("-bios") + 1],
        "--collateral", str(recording.files / "collateral.json"),
        "--trust-anchor", str(recording.data / "pki/root-ca.pem"),
    ]  # fmt: skip


def qemu_processes(name: str) -> list[str]:
    """Processes whose name QEMU was told to take (the kernel keeps 15 bytes of it)."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == name[:15]:
                found.append(comm.parent.name)
        except OSError:
            continue
    return found
