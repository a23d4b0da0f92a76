"""The quote generation service (QGS), and the SGX devices that its enclave needs."""

from __future__ import annotations

import re
from pathlib import Path

from tdxstack.abi.qgs import ErrorCode, GetPlatformInfoRequest, GetPlatformInfoResponse, error_name
from tdxstack.errors import MalformedError
from tdxstack.exchange import Address
from tdxstack.host.check import ENABLING_GUIDE, Check, Circumstances, Finding, Purpose, exists, optional
from tdxstack.host_access import AbsentError, FileStatus, ForbiddenError, Host, HostError, Output

QGS_USER = "qgsd"
QGS_SOCKET = Path("/var/run/tdx-qgs/qgs.socket")
QGS_CONFIG = "/etc/qgs.conf"
VMADDR_CID_HOST = 2
SGX_DEVICES = ("/dev/sgx_enclave", "/dev/sgx_provision")
QEMU_USERS = ("libvirt-qemu", "qemu")
"""As whom libvirt runs QEMU: Debian and Ubuntu, Fedora and its kin."""

ANSWER_SECONDS = 3.0
READ, WRITE, ENTER = 4, 2, 1


class SgxDevices(Check):
    """Whether enclaves can run."""

    id = "sgx.devices"
    purpose = Purpose.ATTEST
    looks_at = " and ".join(SGX_DEVICES)
    expected = "both devices exist"
    why = (
        "The quoting enclave runs in SGX; the provisioning device gives it the platform's certification key."
    )
    fix = "enable SGX in the BIOS, and use a kernel with CONFIG_X86_SGX=y"
    link = "https://docs.kernel.org/arch/x86/sgx.html"
    needs = ("bios.sgx",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        missing = [device for device in SGX_DEVICES if not exists(host, device)]
        if missing:
            return self.fail(
                f"missing: {', '.join(missing)}", "the kernel offers no SGX: no quotes can be made"
            )
        return self.ok("both exist")


class SgxPermissions(Check):
    """Whether the QGS may use those devices."""

    id = "sgx.permissions"
    purpose = Purpose.ATTEST
    looks_at = f"mode and group of /dev/sgx_provision, groups of the user {QGS_USER}"
    expected = f"{QGS_USER} may read and write /dev/sgx_provision"
    why = "Distributions keep the provisioning device for the group sgx_prv, which the QGS' user must be in."
    fix = f"sudo usermod -aG sgx_prv {QGS_USER}; sudo systemctl restart qgsd"
    link = ENABLING_GUIDE
    needs = ("sgx.devices",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        if not _has_user(host, QGS_USER):
            return self.skip(f"there is no user {QGS_USER}")
        status = host.status("/dev/sgx_provision")
        found = _shown(status)
        if _allowed(host, status, QGS_USER, READ | WRITE):
            return self.ok(found)
        return self.fail(
            found,
            f"the user {QGS_USER} may not use /dev/sgx_provision",
            f"sudo usermod -aG {status.group} {QGS_USER}; sudo systemctl restart qgsd",
        )


class Service(Check):
    """Whether the QGS runs."""

    id = "qgs.service"
    purpose = Purpose.ATTEST
    looks_at = "systemctl show qgsd, the QGS' socket"
    expected = "qgsd is active"
    why = (
        "A TD's report becomes a quote in the QGS of its host; without it TDs run, but cannot prove "
        "themselves."
    )
    fix = "sudo apt-get install tdx-qgs (from Intel's or Ubuntu's archive); sudo systemctl enable --now qgsd"
    link = ENABLING_GUIDE
    needs = ("sgx.devices", "sgx.permissions")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            output = host.run(["systemctl", "show", "qgsd", "--property=LoadState,ActiveState,SubState"])
        except AbsentError:
            output = Output(1, "", "")
        state = dict(re.findall(r"^(\w+)=(.*)$", output.stdout, re.MULTILINE))
        if state.get("ActiveState") == "active":
            return self.ok("qgsd is active")
        if state.get("LoadState") != "loaded" and exists(host, str(QGS_SOCKET)):
            return self.ok(f"not a service of systemd, but {QGS_SOCKET} exists")
        if not state:
            return self.unsure("systemd does not run here, and there is no QGS socket", "ps ax | grep qgs")
        if state.get("LoadState") != "loaded":
            return self.fail("qgsd is not installed", "no quote generation service is installed")
        shown = f"qgsd is {state.get('ActiveState', 'unknown')} ({state.get('SubState', 'unknown')})"
        return self.fail(
            shown, "the quote generation service does not run", "sudo journalctl -u qgsd -b; restart it"
        )


class Socket(Check):
    """Whether QEMU may connect to it."""

    id = "qgs.socket"
    purpose = Purpose.ATTEST
    looks_at = f"{QGS_CONFIG}, mode, owner and SELinux label of {QGS_SOCKET}, groups of QEMU's user"
    expected = "the user that runs QEMU may connect"
    why = (
        "The QGS makes its socket for its own user and group (0755); QEMU, which libvirt runs as another "
        "user, then gets Permission denied and the TD an empty quote."
    )
    fix = (
        "let QEMU's user into the QGS' group and the group write: sudo usermod -aG qgsd libvirt-qemu; sudo "
        "systemctl edit qgsd, with [Service] UMask=0007; sudo systemctl restart qgsd libvirtd"
    )
    link = "https://github.com/intel/confidential-computing.tee.dcap/pull/451"
    needs = ("qgs.service",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        address = qgs_address(host)
        if isinstance(address, tuple):
            if exists(host, "/dev/vsock"):
                return self.ok(f"vsock port {address[1]} ({QGS_CONFIG})")
            return self.fail(
                "no /dev/vsock", "the QGS listens on vsock, which is not loaded", "sudo modprobe vhost_vsock"
            )
        try:
            status = host.status(str(QGS_SOCKET))
            directory = host.status(str(QGS_SOCKET.parent))
        except AbsentError as error:
            return self.fail(error.message, "the QGS has no socket", "sudo systemctl restart qgsd")
        found = f"{_shown(status)} in {_shown(directory)}{f', {status.label}' if status.label else ''}"
        users = [user for user in QEMU_USERS if _has_user(host, user)]
        refused = [user for user in users if not _may_connect(host, status, directory, user)]
        if refused:
            return self.fail(
                found,
                f"QEMU runs as {', '.join(refused)}, who may not connect to the QGS' socket",
                self.fix.replace("qgsd libvirt-qemu", f"{status.group} {refused[0]}"),
            )
        if not users and not _may_connect(host, status, directory, ""):
            return self.warn(found, "only root and the QGS' own user may connect to its socket")
        if optional(host, "/sys/fs/selinux/enforce") == "1" and "qgs" not in status.label:
            return self.warn(
                found,
                "SELinux is enforcing, and the socket has no label of the QGS policy",
                "sudo restorecon -Rv /run/tdx-qgs; sudo ausearch -m avc -ts recent",
            )
        return self.ok(found)


class Answer(Check):
    """Whether it answers, in a real round trip."""

    id = "qgs.answer"
    purpose = Purpose.ATTEST
    looks_at = "a get_platform_info request over the QGS' socket"
    expected = "the QGS names its quoting enclave"
    why = (
        "A service that is active may still hang, lack its enclave or speak another protocol; quotes then "
        "fail."
    )
    fix = "sudo systemctl restart qgsd; sudo journalctl -u qgsd -b"
    link = "https://github.com/intel/confidential-computing.tee.dcap/issues/450"
    needs = ("qgs.service", "qgs.socket")

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        address = qgs_address(host)
        try:
            message = host.exchange(address, GetPlatformInfoRequest().to_bytes(), timeout=ANSWER_SECONDS)
            answer = GetPlatformInfoResponse.parse(message)
        except ForbiddenError as error:
            return self.unsure(error.message, "sudo tdx doctor")
        except HostError as error:
            return self.fail(error.message, "the quote generation service does not answer")
        except MalformedError as error:
            return self.fail(error.message, "what listens there is no quote generation service")
        if answer.error_code != ErrorCode.SUCCESS:
            return self.fail(
                error_name(answer.error_code), "the quote generation service has no quoting enclave"
            )
        return self.ok(f"TD QE SVN {answer.qe_isvsvn}, PCE SVN {answer.pce_isvsvn}")


def qgs_address(host: Host) -> Address:
    """Where the QGS listens: on vsock where its configuration names a port, else on its unix socket."""
    for line in optional(host, QGS_CONFIG).splitlines():
        found = re.fullmatch(r"\s*port\s*=\s*(\d{1,9})\s*", line)
        if found and int(found[1]):
            return (VMADDR_CID_HOST, int(found[1]))
    return QGS_SOCKET


def _shown(status: FileStatus) -> str:
    return f"{status.mode:04o} {status.owner}:{status.group}"


def _may_connect(host: Host, socket: FileStatus, directory: FileStatus, user: str) -> bool:
    return _allowed(host, socket, user, WRITE) and _allowed(host, directory, user, ENTER)


def _allowed(host: Host, status: FileStatus, user: str, wanted: int) -> bool:
    """Whether the mode lets `user` (any other user, where empty) do all of `wanted`."""
    if user and user == status.owner:
        granted = status.mode >> 6
    elif user and status.group in _groups_of(host, user):
        granted = status.mode >> 3
    else:
        granted = status.mode
    return granted & wanted == wanted


def _has_user(host: Host, user: str) -> bool:
    return any(line.startswith(f"{user}:") for line in optional(host, "/etc/passwd").splitlines())


def _groups_of(host: Host, user: str) -> set[str]:
    """Names of the groups of a local user."""
    primary = ""
    for line in optional(host, "/etc/passwd").splitlines():
        fields = line.split(":")
        if fields[0] == user and len(fields) > 3:
            primary = fields[3]
    groups = set()
    for line in optional(host, "/etc/group").splitlines():
        fields = line.split(":")
        if len(fields) == 4 and (fields[2] == primary or user in fields[3].split(",")):
            groups.add(fields[0])
    return groups
