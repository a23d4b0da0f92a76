from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.host.module import ModuleFile, Releases, parse_mapping
from tdxstack.host.module_plan import BOOT, REFUSED, RUNTIME, plan_update
from tdxstack.host.module_running import SYSFS, UPDATE_INTERFACE, RunningModule, ask_running
from tdxstack.host_access import FileStatus, ForbiddenError, KernelLog
from tests.module_files import GRANITE_RAPIDS, MODULE, SAPPHIRE_RAPIDS, signed
from tests.scripted_host import MODIFIED, ScriptedHost

RELEASES = Releases.load()
CPUINFO = b"""processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
stepping\t: 8

processor\t: 1
vendor_id\t: GenuineIntel
"""
MAPPING = parse_mapping(
    b"""{"tdx_module_releases": [{"version": "1.5.99",
    "min_module_version_for_td_preserving": "1.5.05", "min_seamldr_versions": ["1.5.00", "2.0.00"]}]}"""
)
MODULE_FILE = ModuleFile(Path("tdx_module_1.5.99.bin"), "separate files", MODULE, signed(), None)
RUNNING = RunningModule(
    version="1.5.16",
    known_from="sysfs",
    svn=(11, 1),
    seamldr_version="1.5.03",
    remaining_updates=3,
    runtime_update=True,
    cpu=SAPPHIRE_RAPIDS,
)


def good_host() -> ScriptedHost:
    host = ScriptedHost()
    host.files["/proc/cpuinfo"] = CPUINFO
    host.files[f"{SYSFS}/version"] = b"1.5.16\n"
    host.files[f"{SYSFS}/seamldr_version"] = b"1.5.03\n"
    host.files[f"{SYSFS}/num_remaining_updates"] = b"3\n"
    host.statuses[UPDATE_INTERFACE] = FileStatus("directory", 0o755, "root", "root", 0, MODIFIED)
    return host


def found(running: RunningModule, module: ModuleFile = MODULE_FILE) -> dict[str, str]:
    plan = plan_update(module, running, RELEASES, MAPPING)
    return {check.id: check.status.value for check in plan.checks} | {"method": plan.method}


def test_a_host_with_the_new_kernel_tells_all() -> None:
    running = ask_running(good_host(), RELEASES)
    assert running == replace(RUNNING, known_from=f"{SYSFS}/version", reasons={})


def test_a_host_without_the_sysfs_files_tells_it_in_its_log() -> None:
    host = ScriptedHost()
    host.files["/proc/cpuinfo"] = CPUINFO
    host.log = KernelLog(("virt/tdx: Module version: 1.5.24", "virt/tdx: module initialized"), "dmesg", True)
    running = ask_running(host, RELEASES)
    assert (running.version, running.known_from, running.svn) == ("1.5.24", "dmesg", None)
    assert running.remaining_updates is None and not running.runtime_update


def test_canonicals_old_kernels_name_a_build_date() -> None:
    host = ScriptedHost()
    line = (
        "virt/tdx: TDX module: attributes 0x0, major_version 1, minor_version 5, build_date {}, build_num 7"
    )
    host.log = KernelLog((line.format("20240725"),), "dmesg", True)
    running = ask_running(host, RELEASES)
    assert (running.version, running.svn) == ("1.5.08", (7, 1))
    host.log = KernelLog((line.format("20241399"),), "dmesg", True)
    assert ask_running(host, RELEASES).version == ""
    host.log = KernelLog((line.format("20260101"),), "dmesg", True)
    assert "no published module is 1.5 of 20260101" in ask_running(host, RELEASES).reasons["version"]


def test_what_is_not_known_has_a_reason() -> None:
    host = ScriptedHost()
    host.files[f"{SYSFS}/version"] = b"soon\n"
    host.files[f"{SYSFS}/seamldr_version"] = ForbiddenError("not for this user", hint="sudo cat")
    running = ask_running(host, RELEASES)
    assert (running.version, running.cpu) == ("", None)
    assert running.reasons.keys() == {"version", "seamldr_version", "remaining_updates", "cpu"}
    assert "sudo cat" in running.reasons["seamldr_version"]


@pytest.mark.parametrize(
    ("cpuinfo", "reason"),
    [
        (b"vendor_id : AuthenticAMD\ncpu family : 25\nmodel : 1\nstepping : 1\n", "AuthenticAMD"),
        (b"vendor_id : GenuineIntel\nmodel : 6\n", "names no family"),
        (b"", "no known vendor"),
    ],
)
def test_other_cpus(cpuinfo: bytes, reason: str) -> None:
    host = good_host()
    host.files["/proc/cpuinfo"] = cpuinfo
    running = ask_running(host, RELEASES)
    assert running.cpu is None
    assert reason in running.reasons["cpu"]


def test_a_newer_module_of_the_line_is_installed_while_tds_run() -> None:
    checks = found(RUNNING)
    assert checks.pop("method") == RUNTIME
    assert checks.pop("module.signer") == "warning"
    assert set(checks.values()) == {"ok"}


@pytest.mark.parametrize(
    ("change", "check", "status"),
    [
        ({"runtime_update": False}, "runtime.interface", "not_applicable"),
        ({"remaining_updates": 0}, "runtime.remaining_updates", "fail"),
        ({"remaining_updates": None}, "runtime.remaining_updates", "unknown"),
        ({"version": "1.4.07"}, "runtime.same_line", "fail"),
        ({"version": ""}, "runtime.same_line", "unknown"),
        ({"version": "1.5.100"}, "runtime.same_line", "fail"),
        ({"version": "1.5.01"}, "runtime.mapping", "fail"),
        ({"seamldr_version": "1.6.00"}, "runtime.seamldr", "fail"),
        ({"seamldr_version": ""}, "runtime.seamldr", "unknown"),
    ],
)
def test_what_forbids_a_runtime_update_leaves_the_boot(
    change: dict[str, Any], check: str, status: str
) -> None:
    checks = found(replace(RUNNING, **change))
    assert (checks[check], checks["method"]) == (status, BOOT)


def test_without_a_mapping_file_a_module_is_installed_at_boot() -> None:
    assert plan_update(MODULE_FILE, RUNNING, RELEASES, None).method == BOOT
    assert plan_update(MODULE_FILE, RUNNING, RELEASES, {}).method == BOOT


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"cpu": GRANITE_RAPIDS}, "cpu.supported"),
        (
            {"cpu": None, "reasons": {"cpu": "the CPU is of AuthenticAMD, not of GenuineIntel"}},
            "cpu.supported",
        ),
        ({"svn": (12, 1)}, "svn.not_lower"),
        ({"svn": (3, 3)}, "svn.not_lower"),
        ({"svn": None, "version": "1.6.00"}, "svn.not_lower"),
    ],
)
def test_modules_that_must_not_be_installed(change: dict[str, Any], check: str) -> None:
    plan = plan_update(MODULE_FILE, replace(RUNNING, **change), RELEASES, MAPPING)
    assert plan.method == REFUSED
    assert [one.id for one in plan.refusals] == [check]


def test_a_damaged_module_is_refused() -> None:
    plan = plan_update(replace(MODULE_FILE, module=MODULE[::-1]), RUNNING, RELEASES, MAPPING)
    assert [one.id for one in plan.refusals] == ["module.hash"]


def test_the_same_version_again_is_a_warning() -> None:
    same = replace(MODULE_FILE, path=Path("tdx_module_1.5.16.bin"))
    assert found(RUNNING, same)["version.newer"] == "warning"
