from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.cli.explain import explain
from tdxstack.errors import UsageError
from tdxstack.host import explain as explain_module
from tdxstack.host.explain import explain_text
from tdxstack.host.explain_codes import Numbers, explain_mentioned, explain_name, explain_number, number_in
from tdxstack.host.explain_tables import LAYERS, load

TABLES = load()
NUMBERS = Numbers(TABLES)

OLD_MODULE = """\
[    0.624877] Kernel command line: BOOT_IMAGE=/boot/vmlinuz ro nohibernate kvm_intel.tdx=1
[    1.289113] virt/tdx: BIOS enabled: private KeyID range [32, 64)
[    8.222930] virt/tdx: CMR: [0x100000000, 0x107a000000)
[    8.300000] virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000050500000000
[    8.300001] virt/tdx: RCX 0x0000000000000000 RDX 0x0000000000000000 R08 0x0000000000000000
[    8.300002] virt/tdx: module initialization failed (-5)
[   30.000000] qemu-system-x86_64: -accel kvm: vm-type TDX not supported by KVM
"""


def run(words: list[str], input: str = "") -> Result:
    # A command keeps the help option that it was first asked for with: the one that it has under `tdx`.
    help_option: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    return CliRunner().invoke(explain, words, input=input, **help_option)


def names(number: int) -> list[str]:
    return [code.name for code in explain_number(number, NUMBERS)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0xC000050500000000", 0xC000050500000000),
        ("c000050500000000", 0xC000050500000000),
        ("13835063706022313984", 13835063706022313984),
        ("-1", (1 << 64) - 1),
        ("-4611680367687237632", (1 << 64) - 4611680367687237632),
        ("0xe011", 0xE011),
        (" 4 ", 4),
        ("e011", 0xE011),
        ("cafes", None),
        ("TDX", None),
        ("12345678", 12345678),
        ("0x10000000000000000", None),
        ("99999999999999999999", None),
        ("-99999999999999999999", None),
        ("", None),
    ],
)
def test_numbers_as_people_write_them(text: str, number: int | None) -> None:
    assert number_in(text) == number


def test_a_status_has_its_operand_and_its_bits_in_words() -> None:
    (finding,) = explain_number(0xC000010000000045, NUMBERS)
    assert finding.name == "TDX_OPERAND_INVALID"
    assert finding.fields == {
        "class": "invalid operand",
        "error": "yes",
        "recoverable": "no",
        "fatal": "no",
        "host_priority": "no",
        "operand": "CPUID_CONFIG (0x45)",
    }


def test_bits_that_a_module_adds_to_a_status_do_not_hide_its_name() -> None:
    (finding,) = explain_number(0xC000010000000001 | 1 << 61, NUMBERS)
    assert (finding.name, finding.fields["fatal"]) == ("TDX_OPERAND_INVALID", "yes")


def test_why_a_vcpu_left_is_named() -> None:
    (finding,) = explain_number(0x4000000100000002, NUMBERS)
    assert finding.fields["exit_reason"] == "triple fault (2)"


def test_a_status_of_a_newer_module_is_explained_by_its_class() -> None:
    (finding,) = explain_number(0xC00009EE00000000, NUMBERS)
    assert finding.name == "unknown status"
    assert finding.fields["class"] == "platform" and "0xee" in finding.fields["name"]


def test_a_number_of_several_families_is_explained_for_each() -> None:
    assert names(0x8000000000000000) == ["GET_QUOTE_ERROR", "SEAMLDR_EBADPARAM", "TDVMCALL_INVALID_OPERAND"]
    assert names(1) == ["TDVMCALL_RETRY", "TDX_ATTEST_ERROR_UNEXPECTED"]


@pytest.mark.parametrize("number", [0xDEADBEEF, 0xFFFF888000000000, 0x107A000000, 0xE0FE, 1 << 62 | 1])
def test_other_numbers_are_nothing(number: int) -> None:
    assert names(number) == []


def test_names_are_explained_as_their_numbers_are() -> None:
    assert [code.number for code in explain_name("tdx_sys_not_ready", NUMBERS)] == [0xC000050500000000]
    assert explain_name("TDX_NO_SUCH_THING", NUMBERS) == []


@pytest.mark.parametrize("number", [0xC0000100, 0x80000203, 0xE0000505])
def test_the_upper_half_of_a_status_is_taken_for_the_whole(number: int) -> None:
    assert explain_number(number, NUMBERS) == explain_number(number << 32, NUMBERS) != []


@pytest.mark.parametrize("number", [0xC0009EEE, 0x00000505, 0xC0000000])
def test_other_halves_are_nothing(number: int) -> None:
    assert explain_number(number, NUMBERS) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Error 0xe039", ["SGX_QL_QEIDENTITY_CHAIN_ERROR"]),
        ("it failed: SGX_QL_NO_PLATFORM_CERT_DATA.", ["SGX_QL_NO_PLATFORM_CERT_DATA"]),
        ("tdx_att_get_quote failed: 0x8", ["TDX_ATTEST_ERROR_QUOTE_FAILURE"]),
        ("0xe011 (SGX_QL_NO_PLATFORM_CERT_DATA)", ["SGX_QL_NO_PLATFORM_CERT_DATA"]),
    ],
)
def test_what_somebody_asks_about_is_a_code(line: str, expected: list[str]) -> None:
    assert [one.name for one in explain_mentioned(line, NUMBERS)] == expected
    result = run([line])
    assert result.exit_code == 0 and expected[0] in result.stdout


def test_zero_in_a_line_is_no_answer() -> None:
    assert explain_mentioned("attributes 0x0, vendor_id 0x00008086", NUMBERS) == []


def test_older_qemu_names_the_call_alone() -> None:
    (finding,) = explain_text("qemu-system-x86_64: KVM_TDX_INIT_VM failed: Invalid argument", TABLES)
    assert finding.id == "qemu.tdx-ioctl"


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    result = run(["SGX_QL_TCBINFO_EXPIRED"])
    assert result.exit_code == 1
    assert "SGX_QL_SGX_TCB_INFO_EXPIRED" in result.stdout
    assert json.loads(run(["SGX_QL_TCBINFO_EXPIRED", "--json"]).stdout)["similar"]


def test_the_codes_of_both_quote_libraries_say_the_same() -> None:
    (one,) = explain_number(0xE011, NUMBERS)
    (other,) = explain_number(0x11011, NUMBERS)
    assert (one.meaning, one.cause, one.next) == (other.meaning, other.cause, other.next)
    assert one.name != other.name


def test_the_first_cause_of_a_log_comes_first_and_notes_last() -> None:
    found = explain_text(OLD_MODULE, TABLES)
    assert [one.id for one in found] == [
        "kernel.seamcall-failed",
        "kernel.initialization-failed",
        "qemu.vm-type",
        "kernel.bios-enabled",
    ]
    assert [one.line for one in found] == [4, 6, 7, 2]
    (code,) = found[0].codes
    assert code.name == "TDX_SYS_NOT_READY"
    assert code.fields["function"] == "TDH.SYS.INIT"


def test_what_kvm_cannot_know_is_no_first_cause() -> None:
    log = (
        "virt/tdx: initialization failed: Hibernation support is enabled\n"
        "kvm_intel: TDX not supported by the host platform\n"
    )
    assert [one.id for one in explain_text(log, TABLES)] == [
        "kernel.hibernation",
        "kvm.not-supported-by-platform",
    ]


def test_each_thing_is_told_once_and_counted() -> None:
    log = "qgsd: tee_att_get_quote return 0x11011\n" * 3 + "qgsd: tee_att_get_quote return 0x1100d\n"
    (finding,) = explain_text(log, TABLES)
    assert (finding.line, finding.count) == (1, 4)
    assert [code.name for code in finding.codes] == [
        "TEE_ATT_NO_PLATFORM_CERT_DATA",
        "TEE_ATT_INTERFACE_UNAVAILABLE",
    ]


def test_the_leaf_of_a_call_is_not_taken_for_a_status() -> None:
    line = "seamldr: SEAMCALL (0x8000000000000000) failed: 0x8000000000030001"
    (finding,) = explain_text(line, TABLES)
    assert [code.name for code in finding.codes] == ["SEAMLDR_ENOENTROPY"]


def test_decimal_error_codes_of_qemu_are_read() -> None:
    (finding,) = explain_text("qemu-system-x86_64: QGS message error code 73729", TABLES)
    assert [code.name for code in finding.codes] == ["QGS_MSG_ERROR_UNEXPECTED"]


@pytest.mark.parametrize(
    "line",
    [
        "pci 0000:00:02.0: BAR 0 [mem 0xe011-0xe0ff]",
        "virt/tdx: CMR: [0x100000000, 0x30100000000)",
        "usb 1-1: device descriptor read/64, error -71",
        "segfault at 8000000000000003",
        "clocksource: kvm-clock: mask: 0xffffffffffffffff max_cycles: 0x1cd42e4dffb",
        "process 57361 exited with status 57361x",
        "nothing of TDX",
    ],
)
def test_other_lines_are_left_alone(line: str) -> None:
    assert explain_text(line, TABLES) == []


def test_a_code_that_a_message_has_explained_is_not_told_again() -> None:
    log = "sgx: failed with 0x11011\nqgsd: tee_att_get_quote return 0x11011\n"
    assert [one.id for one in explain_text(log, TABLES)] == ["qgs.init-quote"]


def test_long_lines_and_logs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_module, "MAX_TEXT", 1 << 18)
    monkeypatch.setattr(explain_module, "MAX_NUMBERS", 1000)
    for piece in ("0xe011 sgx ", "virt/tdx: ", "0xc000050500000000\n", "seamcall (0x", "\n"):
        explain_text(piece * (1 << 18), TABLES)


@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    for finding in explain_text(text, TABLES):
        assert finding.layer in LAYERS
        assert finding.line >= 1


@given(st.integers(0, (1 << 64) - 1))
def test_any_number_has_an_answer(number: int) -> None:
    assert all(code.meaning for code in explain_number(number, NUMBERS))


def test_shown_lines_carry_no_orders_for_a_terminal() -> None:
    (finding,) = explain_text("\x1b[31mtdmrs exhausted\x07", TABLES)
    assert finding.text == "tdmrs exhausted"


def test_command_explains_a_code() -> None:
    result = run(["0xc000050500000000"])
    assert result.exit_code == 0
    assert "TDX_SYS_NOT_READY" in result.stdout and "next" in result.stdout


def test_command_says_so_where_it_knows_nothing() -> None:
    result = run(["good", "morning"])
    assert result.exit_code == 1
    assert "nothing here is known" in result.stdout


def test_command_reads_standard_input_and_files(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(OLD_MODULE)
    piped = run(["-", "--json"], input=OLD_MODULE)
    from_file = run([str(tmp_path / "log"), "--json"])
    assert piped.exit_code == from_file.exit_code == 0
    assert piped.stdout == from_file.stdout
    document = json.loads(piped.stdout)
    assert document["recognised"] is True
    assert document["findings"][0]["codes"][0]["name"] == "TDX_SYS_NOT_READY"


def test_command_says_nothing_was_recognised_in_json() -> None:
    result = run(["0xdeadbeef", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"recognised": False, "codes": [], "findings": [], "similar": []}


def test_command_says_that_a_file_is_missing() -> None:
    result = run(["./no-such.log"])
    assert isinstance(result.exception, UsageError)
    assert "there is no file ./no-such.log" in result.exception.message


def test_command_refuses_what_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdxstack.cli.explain.MAX_TEXT", 1 << 20)
    result = run(["-"], input="x" * ((1 << 20) + 1))
    assert isinstance(result.exception, UsageError)
    assert "1 MiB" in result.exception.message
