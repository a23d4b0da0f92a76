"""The machine that a command looks at. Apart from `edge`, which takes long to import."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from tdxstack.emulator.locate import locate
from tdxstack.files import Directories
from tdxstack.host.check import Circumstances
from tdxstack.host_access import SYSTEM_PATH, RealHost


def real_host() -> RealHost:
    """The machine that the command runs on; its programs are the user's first, then the administrator's."""
    places = [place for place in os.environ.get("PATH", "").split(":") if place.startswith("/")]
    return RealHost(":".join([*places, SYSTEM_PATH]))


def circumstances(*, network: bool) -> Circumstances:
    """What a diagnosis of this machine depends on; the emulator is that of the user who called sudo."""
    caller = int(os.environ.get("SUDO_UID", "0")) if os.geteuid() == 0 else 0
    places = Directories.of_user({} if caller else os.environ, caller or os.getuid())
    emulator = locate(places.cache)
    return Circumstances(datetime.now(UTC), network, emulator.version if emulator else "")


def machine_names() -> tuple[str, ...]:
    """The names that this machine has for itself."""
    name = os.uname().nodename
    return (name, name.split(".")[0])
