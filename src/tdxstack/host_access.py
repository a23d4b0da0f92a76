"""The one door to the host: what the machine itself says, asked for through one small interface."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

from tdxstack.errors import UnavailableError

KVM_DEVICE = Path("/dev/kvm")
KVM_CHECK_EXTENSION = 0xAE03
"""ioctl of /dev/kvm: the value of a capability (Linux include/uapi/linux/kvm.h)."""


class Host(Protocol):
    """What tdxstack asks of a host; real here, scripted in tests."""

    def kvm_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION of `capability`; `UnavailableError` says why KVM cannot be asked."""


class RealHost:
    """The machine this process runs on."""

    def kvm_extension(self, capability: int) -> int:
        try:
            descriptor = os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UnavailableError(
                f"{KVM_DEVICE} does not exist", hint="load kvm_intel on a machine with VT-x"
            ) from None
        except PermissionError:
            raise UnavailableError(
                f"{KVM_DEVICE} may not be opened by this user", hint="add the user to the group kvm"
            ) from None
        except OSError as error:
            raise UnavailableError(
                f"{KVM_DEVICE} cannot be opened: {os.strerror(error.errno or 0)}"
            ) from None
        try:
            return fcntl.ioctl(descriptor, KVM_CHECK_EXTENSION, capability)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "unknown error")
            raise UnavailableError(f"KVM_CHECK_EXTENSION({capability}) failed: {name}") from None
        finally:
            os.close(descriptor)
