from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.host import kernel_log
from tdxstack.host.kernel_log import ModuleVersion
from tdxstack.host_access import KernelLog


def said(*lines: str) -> KernelLog:
    return KernelLog(lines, "dmesg", complete=True)


@pytest.mark.parametrize("stamp", ["", "[    0.874604] ", "[12345.000001] "])
@pytest.mark.parametrize("prefix", ["virt/tdx: ", "tdx: "])
def test_old_and_new_words(stamp: str, prefix: str) -> None:
    start = stamp + prefix
    assert kernel_log.key_range(said("x", f"{start}BIOS enabled: private KeyID range [16, 64)")) == (16, 64)
    assert kernel_log.module_version(said(f"{start}Module version: 1.5.24")) == ModuleVersion(1, 5, 24)
    old = (
        "TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240725"
    )
    version = kernel_log.module_version(said(f"{start}{old}, build_num 784"))
    assert version == ModuleVersion(1, 5, build_date=20240725)
    for line in ("module initialized", "TDX-Module initialized", "TDX module initialized"):
        assert kernel_log.initialized(said(start + line))
    assert kernel_log.not_loaded(said(f"{start}module not loaded"))


@pytest.mark.parametrize(
    "line",
    [
        "virt/tdx: module initialization failed (-5)",
        "virt/tdx: initialization failed: too few private KeyIDs available.",
        "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000",
        "virt/tdx: frame pointer (RBP) clobber bug present, upgrade TDX module",
        "tdx: [firmware bug]: TDX is not enabled by BIOS.",
        "tdx: not enabled by BIOS.",
        "tdx: Cannot enable TDX on TDX disabled platform",
        "kvm_intel: Failed to initialize TDX module.",
        "kvm_intel: tdx: no TDX private KeyIDs available",
        "kvm_intel: TDP MMU and MMIO caching and EPT A/D bit is required for TDX",
        "kvm_intel: tdx: tdx requires kvm.enable_virt_at_load=1",
        "kvm_intel: Disable TDX: MAX_VCPU_PER_TD (255) smaller than number of logical CPUs (512).",
    ],
)
def test_failures_are_seen(line: str) -> None:
    assert kernel_log.failures(said("other: line", f"[    1.234567] {line}")) == [line]
    assert not kernel_log.initialized(said(line))


@pytest.mark.parametrize(
    "line",
    [
        "Command line: virt/tdx: module initialized",
        "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
        "virt/tdx: CMR: [0x100000, 0x77800000)",
        "ntdx: module initialized",
    ],
)
def test_other_lines_are_none_of_these(line: str) -> None:
    log = said(line)
    assert kernel_log.failures(log) == []
    assert not kernel_log.initialized(log)
    assert kernel_log.key_range(log) is None
    assert kernel_log.module_version(log) is None


@given(st.lists(st.text() | st.text("virt/dx: SEAMCL module failed0x").map("virt/tdx: {}".format)))
def test_no_log_is_too_strange(lines: list[str]) -> None:
    log = said(*lines)
    kernel_log.key_range(log)
    kernel_log.module_version(log)
    kernel_log.failures(log)
    kernel_log.attempted(log)


def test_a_line_without_end_takes_no_time_without_end() -> None:
    log = said("virt/tdx: " + "SEAMCALL failed: " * 100_000)
    kernel_log.failures(log)
    kernel_log.attempted(log)


def test_versions_read_as_people_write_them() -> None:
    assert str(ModuleVersion(1, 5, 6)) == "1.5.06"
    assert str(ModuleVersion(1, 5, build_date=20240725)) == "1.5 of 20240725"
