"""How a machine is entered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.machine.ssh import Ssh, seen_host_key
from tdxstack.machine.store import MachineFiles

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS"


def ssh(port: int) -> Ssh:
    return Ssh(("ssh",), port, Path("key"), Path("known_hosts"))


def test_a_known_key_is_known_at_another_port() -> None:
    """The key is not looked up by the port, which a machine that starts again does not keep."""
    first, second = (ssh(port).argv(["true"]) for port in (40001, 40002))
    assert [word for word in first if word not in second] == ["40001"]
    assert "HostKeyAlias=guest" in first


def test_only_a_first_key_is_taken_as_it_comes() -> None:
    assert "StrictHostKeyChecking=accept-new" in ssh(1).argv(trust_new_key=True)
    assert "StrictHostKeyChecking=yes" in ssh(1).argv()


def test_the_seen_key_is_the_one_of_the_right_type(tmp_path: Path) -> None:
    files = MachineFiles(tmp_path, tmp_path)
    with pytest.raises(UnavailableError, match="never used"):
        seen_host_key(files)
    files.known_hosts.write_text(f"guest ssh-rsa AAAA\nguest ssh-ed25519 {KEY}\n")
    assert seen_host_key(files)[4:15] == b"ssh-ed25519"
    files.known_hosts.write_text(f"guest ssh-ed25519 {KEY}\n" * 2)
    with pytest.raises(MalformedError, match="2 host keys"):
        seen_host_key(files)
