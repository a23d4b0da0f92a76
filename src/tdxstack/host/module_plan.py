"""What installing a TDX module on a host would change, and whether and how it can be done.

Rules: the SEAM loader refuses a module for other CPUs, and on an update one of a lower SVN (SEAMLDR.INSTALL);
TDs survive an update within one major.minor line, to a version that is not older, from a version that the
mapping file names or a later one (version_select_and_load.py of Intel's TDX module binaries).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tdxstack.host.module import (
    MappedRelease,
    ModuleFile,
    Releases,
    check_file,
    cpu_name,
    version_key,
)
from tdxstack.host.module_running import UPDATE_INTERFACE, RunningModule
from tdxstack.verification.result import Check, Status, fail, judged, not_applicable, ok, unknown

RUNTIME: Final = "runtime"
BOOT: Final = "boot"
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """`method` is `runtime` (no reboot, TDs go on), `boot` (from the EFI system partition) or `refused`."""

    module: ModuleFile
    running: RunningModule
    checks: tuple[Check, ...]
    method: str

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that forbid installing the module at all."""
        return tuple(check for check in self.checks if check.status is Status.FAIL and _forbids(check))


def plan_update(
    module: ModuleFile,
    running: RunningModule,
    releases: Releases,
    mapping: Mapping[tuple[int, ...], MappedRelease] | None,
) -> ModulePlan:
    """Judge a module against what runs. Without a mapping file, runtime checks that need it are unknown."""
    general = [
        *check_file(module, releases),
        _cpu(module, running),
        _svn(module, running),
        _version(module, running),
    ]
    runtime = _runtime(module, running, mapping)
    checks = (*general, *runtime)
    if any(check.status is Status.FAIL and _forbids(check) for check in checks):
        method = REFUSED
    else:
        method = RUNTIME if all(check.status is Status.OK for check in runtime) else BOOT
    return ModulePlan(module, running, checks, method)


def _forbids(check: Check) -> bool:
    return not check.id.startswith("runtime.")


def _cpu(module: ModuleFile, running: RunningModule) -> Check:
    table = ", ".join(cpu_name(cpu) for cpu in module.sigstruct.cpuid_table) or "none"
    if running.cpu is None:
        reason = running.reasons["cpu"]
        return (
            fail("cpu.supported", table, reason)
            if "GenuineIntel" in reason
            else unknown("cpu.supported", reason)
        )
    return judged(
        "cpu.supported",
        module.sigstruct.supports(running.cpu),
        table,
        cpu_name(running.cpu),
        "the SEAM loader refuses a module that does not name this CPU",
    )


def _svn(module: ModuleFile, running: RunningModule) -> Check:
    if running.svn is None:
        if _older(module, running):
            return fail("svn.not_lower", f"that of {running.version} or higher", f"that of {module.version}")
        name = running.version or "which is unknown"
        return unknown("svn.not_lower", f"the SVN of the running module ({name}) is not known")
    minor, major = running.svn
    return judged(
        "svn.not_lower",
        module.svn[1] == major and module.svn[0] >= minor,
        f"{major}.{minor} or higher",
        f"{module.svn[1]}.{module.svn[0]}",
        "a lower SVN brings back what was fixed, and verifiers see it",
    )


def _older(module: ModuleFile, running: RunningModule) -> bool:
    known = bool(module.version and running.version)
    return known and version_key(module.version) < version_key(running.version)


def _version(module: ModuleFile, running: RunningModule) -> Check:
    if not running.version or not module.version:
        return unknown("version.newer", running.reasons.get("version", "the file's version is not known"))
    newer = version_key(module.version) > version_key(running.version)
    if newer:
        return ok("version.newer", f"newer than {running.version}", module.version)
    detail = "this version runs already" if module.version == running.version else "an older version"
    return Check("version.newer", Status.WARNING, f"newer than {running.version}", module.version, detail)


def _runtime(
    module: ModuleFile, running: RunningModule, mapping: Mapping[tuple[int, ...], MappedRelease] | None
) -> list[Check]:
    """Whether the module can be replaced while TDs run."""
    if not running.runtime_update:
        reason = (
            f"this kernel does not offer {UPDATE_INTERFACE} (Linux 7.2 and newer, where the SEAM loader can)"
        )
        return [not_applicable("runtime.interface", reason)]
    checks = [ok("runtime.interface", UPDATE_INTERFACE, "present")]
    if running.remaining_updates is None:
        checks.append(
            unknown("runtime.remaining_updates", running.reasons.get("remaining_updates", "no number"))
        )
    else:
        left = running.remaining_updates
        checks.append(
            judged("runtime.remaining_updates", left > 0, "1 or more", str(left), "reboot to reset it")
        )
    if not running.version or not module.version:
        return [*checks, unknown("runtime.same_line", "a version is not known")]
    now, then = version_key(running.version), version_key(module.version)
    same = now[:2] == then[:2] and then >= now
    expected = f"{now[0]}.{now[1]}.{now[2]} or later of {now[0]}.{now[1]}"
    checks.append(judged("runtime.same_line", same, expected, module.version, "replace it at boot"))
    return [*checks, *_mapped(then, now, running.seamldr_version, mapping)]


def _mapped(
    then: tuple[int, ...],
    now: tuple[int, ...],
    seamldr: str,
    mapping: Mapping[tuple[int, ...], MappedRelease] | None,
) -> list[Check]:
    if mapping is None:
        return [unknown("runtime.mapping", "no mapping file was given; take Intel's mapping_file.json")]
    row = mapping.get(then)
    if row is None:
        return [unknown("runtime.mapping", "the mapping file does not have this version")]
    good = now >= version_key(row.minimum_running)
    dotted = ".".join(str(part) for part in now)
    checks = [
        judged("runtime.mapping", good, f"{row.minimum_running} or later", dotted, "replace it at boot")
    ]
    if not seamldr:
        return [*checks, unknown("runtime.seamldr", "the SEAM loader's version is not known; ask as root")]
    loader = version_key(seamldr)
    fits = any(
        loader[:2] == least[:2] and loader >= least for least in map(version_key, row.seamldr_versions)
    )
    wanted = " or ".join(row.seamldr_versions)
    return [
        *checks,
        judged("runtime.seamldr", fits, f"{wanted}, or later of the line", seamldr, "update the BIOS"),
    ]
