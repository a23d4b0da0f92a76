"""Whether Intel knows this platform."""

from __future__ import annotations

import re
import struct

from tdxstack.host.check import ENABLING_GUIDE, Check, Circumstances, Finding, Purpose, exists, optional
from tdxstack.host_access import AbsentError, Host

EFI_VARIABLES = "/sys/firmware/efi/efivars"
STATUS_VARIABLE = f"{EFI_VARIABLES}/SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45"
_STATUS = struct.Struct("<IHHHB")
"""efivarfs' 4 bytes of attributes, then RegistrationStatusUEFI: version, size, status, error code (Intel
DCAP, SGXPlatformRegistration/src/common/inc/UefiVar.h). Bit 0 of the status: registration is complete."""

MPA_LOG = "/var/log/mpa_registration.log"
ERRORS = {
    0x82: "no network, or a wrong proxy",
    0x85: "Intel's server did not answer in time",
    0x87: "not authorised",
    0xA0: "Intel's server did not understand the request",
    0xA1: "the request is for another registration server (production or sandbox)",
    0xA2: "a CPU package is invalid or revoked",
    0xA3: "Intel does not know a CPU package: a pre-production CPU?",
    0xA4: "the CPU packages do not match each other",
    0xA5: "the platform manifest is invalid",
}
"""RegistrationErrorCode in Intel DCAP, MultiPackageDefs.h."""

AGAIN = (
    "sudo rm /var/log/mpa_registration.log; BIOS: SGX Factory Reset: Enable, SGX Auto MP Registration: "
    "Enable; reboot; sudo systemctl start mpa_registration_tool"
)
_UNKNOWN_PLATFORM = "No certificate data for this platform"
_TROUBLE = re.compile(rf"{_UNKNOWN_PLATFORM}|(?:code is|API\.) 0x[be]0[0-9a-f]{{2}}")
_SUCCESS = re.compile(r"tee_att_(?:init|get)_quote return (?:0x)?0\b")
"""What qgsd logs (canonical/tdx issues 109, 338, 409)."""

SENT_BY_HAND = "won't be send"
"""The agent's own spelling."""


class State(Check):
    """Whether the platform has been registered."""

    id = "registration.state"
    purpose = Purpose.ATTEST
    looks_at = f"the EFI variable SgxRegistrationStatus, {MPA_LOG}"
    expected = "registration is complete"
    why = (
        "Intel issues PCK certificates for platforms that have been registered: by the agent (MPA) at boot, "
        "or by sending the platform manifest by hand."
    )
    fix = f"sudo apt-get install sgx-ra-service; {AGAIN}"
    link = f"{ENABLING_GUIDE}02/infrastructure_setup/#platform-registration"
    needs = ("bios.mcheck", "cpu.production")
    proved_by = ("registration.pck",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            data = host.read(STATUS_VARIABLE)
        except AbsentError:
            return self._without_variable(host)
        if len(data) < _STATUS.size:
            return self.unsure(f"the EFI variable has {len(data)} bytes of {_STATUS.size}", _manage())
        *_, status, error = _STATUS.unpack_from(data)
        found = f"status {status:#06x}, error {error:#04x}"
        if status & 1:
            return self.ok(found)
        if error:
            return self.fail(found, f"the registration has failed: {ERRORS.get(error, 'see the log')}", AGAIN)
        if SENT_BY_HAND in optional(host, MPA_LOG):
            return self.fail(
                found,
                "the platform is not registered: the BIOS keeps the agent from sending the manifest",
                "BIOS: SGX Auto MP Registration: Enable; or send the manifest with PCKIDRetrievalTool",
            )
        return self.fail(found, "the platform is not registered with Intel")

    def _without_variable(self, host: Host) -> Finding:
        log = optional(host, MPA_LOG)
        if "completed successfully" in log or "passed successfully" in log:
            return self.ok(f"{MPA_LOG} says so")
        try:
            shown = host.entries(EFI_VARIABLES)
        except AbsentError:
            shown = ()
        if shown:
            return self.fail(
                "there is no EFI variable SgxRegistrationStatus",
                "the BIOS offers no registration: SGX is off, or an old BIOS",
                "BIOS: SGX Auto MP Registration: Enable; update the BIOS",
            )
        if exists(host, "/sys/firmware/efi"):
            return self.unsure(
                "the kernel shows no EFI variables: efivarfs is not mounted, or it runs with efi=noruntime",
                f"sudo mount -t efivarfs efivarfs {EFI_VARIABLES}; {_manage()}",
            )
        return self.unsure("this machine did not start by EFI: its registration cannot be seen", _manage())


class Pck(Check):
    """Whether certificates for this platform have arrived."""

    id = "registration.pck"
    purpose = Purpose.ATTEST
    looks_at = "the QGS' journal of this boot"
    expected = "the last quote that was asked for was made"
    why = (
        "A platform that calls itself registered may still have no PCK certificate, after a BIOS update or "
        "a change of CPUs: the QGS then logs No certificate data for this platform (0xe011)."
    )
    fix = AGAIN
    link = "https://github.com/intel/confidential-computing.tee.dcap/issues/398"
    needs = ("registration.state", "pccs.answer", "pccs.api_key", "qgs.service")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        command = ["journalctl", "-u", "qgsd", "-b", "-n", "500", "--no-pager", "-q", "-o", "cat"]
        output = host.run(command)
        if output.returncode:
            return self.unsure("the journal of qgsd may not be read", f"sudo {' '.join(command)}")
        made, troubles = False, list[str]()
        for line in output.stdout.splitlines():
            if _SUCCESS.search(line):
                made = True
                troubles.clear()
            elif found := _TROUBLE.search(line):
                troubles.append(found[0])
        if _UNKNOWN_PLATFORM in troubles:
            return self.fail(
                _UNKNOWN_PLATFORM,
                "no PCK certificate is to be had for this platform: Intel does not know it",
            )
        if troubles:
            return self.fail(
                troubles[0],
                "the QGS fails to get its certificates",
                f"tdx explain {troubles[0].split()[-1]}; sudo journalctl -u pccs -b",
            )
        return self.ok("the last quote was made") if made else self.skip("no quote was asked for since boot")


def _manage() -> str:
    return "sudo mpa_manage -get_registration_status"
