"""Commands under sudo act for the user who called it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def become_invoking_user() -> None:
    """Under sudo, go on as the user who called it: state belongs to that user, and needs no root."""
    if os.geteuid() != 0 or os.environ.get("SUDO_UID", "0") == "0":
        return
    user = pwd.getpwuid(int(os.environ["SUDO_UID"]))
    runtime = Path(f"/run/user/{user.pw_uid}")
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        os.environ.pop(name, None)
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    if os.access(runtime, os.W_OK):
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
