"""A small program in QEMU's place; the real ones are asked in tests/e2e."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.platform import Platform
from tdxstack.qemu import kvm_probe
from tdxstack.qemu.kvm_probe import EXIT_CODE, choose_ordinary_platform, image, why_no_kvm


def qemu(tmp_path: Path, program: str) -> tuple[str, ...]:
    path = tmp_path / "qemu.py"
    path.write_text(program)
    return (sys.executable, str(path))


ANSWERS = """
import sys
print({greeting!r}, flush=True)
for line, answer in zip(sys.stdin, {answers!r}):
    print('{{"return": ' + answer + "}}", flush=True)
sys.stdin.read()
"""


def saying(tmp_path: Path, *statuses: str) -> tuple[str, ...]:
    answers = ["{}", *(f'{{"running": false, "status": "{status}"}}' for status in statuses)]
    return qemu(tmp_path, ANSWERS.format(greeting='{"QMP": {}}', answers=answers))


def test_firmware_that_runs_ends_the_machine(tmp_path: Path) -> None:
    assert why_no_kvm(saying(tmp_path, "shutdown")) == ""
    assert why_no_kvm(qemu(tmp_path, f"import sys; sys.exit({EXIT_CODE})")) == ""


def test_machine_that_halts_does_not_run_firmware(tmp_path: Path) -> None:
    assert why_no_kvm(saying(tmp_path, "internal-error")).endswith("QEMU's state is 'internal-error'")


def test_the_reason_is_qemus(tmp_path: Path) -> None:
    program = qemu(tmp_path, "import sys; sys.exit('Could not access KVM kernel module')")
    assert "Could not access KVM kernel module" in why_no_kvm(program)


def test_firmware_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm_probe, "SECONDS", 0.5)
    assert "does not run firmware" in why_no_kvm(qemu(tmp_path, "import time; time.sleep(60)"))


def test_qemu_must_be_there() -> None:
    with pytest.raises(UnavailableError, match="not found"):
        why_no_kvm(("/nonexistent/qemu",))


def test_firmware_starts_where_a_cpu_does() -> None:
    rom = image()
    offset = int.from_bytes(rom[0xFFF1:0xFFF3], "little", signed=True)
    assert (len(rom), rom[0xFFF0], 0xFFF3 + offset) == (0x10000, 0xE9, kvm_probe.START)


def test_ordinary_machines_fall_back_to_tcg_and_say_why(tmp_path: Path) -> None:
    works, broken = tmp_path / "works", tmp_path / "broken"
    for directory in (works, broken):
        directory.mkdir()
    good, bad = saying(works, "shutdown"), saying(broken, "internal-error")
    assert choose_ordinary_platform(good, None).platform is Platform.HARDWARE
    choice = choose_ordinary_platform(bad, None)
    assert (choice.platform, "internal-error" in choice.reason) == (Platform.EMULATED, True)
    assert choose_ordinary_platform(("/nonexistent/qemu",), Platform.EMULATED).reason == "requested"
    with pytest.raises(UnavailableError, match="does not run firmware"):
        choose_ordinary_platform(bad, Platform.HARDWARE)
