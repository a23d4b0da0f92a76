"""Images of recipes, built and booted in emulated TDs under own Secure Boot keys, and what is refused."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.edge import surroundings
from tdxstack.evidence.document import Evidence
from tdxstack.image.packages import Selection, select
from tdxstack.image.recipe import ImageRecipe
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import open_disk
from tdxstack.run import run
from tdxstack.testing.runner import Tdx, wait_for
from tdxstack.workflows.workshop import Workshop

NONCE = bytes(range(32))
BLOB_SIZE = 1 << 20
ASK_OVER_VSOCK = f"""
import socket
asked = socket.socket(socket.AF_VSOCK)
asked.settimeout(60)
asked.connect((1, 4051))
asked.sendall(b"{NONCE.hex()}\\n")
print(asked.makefile("rb").readline().decode(), end="")
"""


@pytest.fixture(scope="module")
def firmware(tdx: Tdx, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Firmware that starts nothing but what the own key has signed."""
    own = tmp_path_factory.mktemp("firmware") / "own.fd"
    original = tdx.json("predict")["machine"]["firmware"]
    tdx.run("firmware", "enroll", original, "-o", str(own))
    return own


@contextlib.contextmanager
def built(tdx: Tdx, recipe: Path, *options: str) -> Iterator[dict[str, Any]]:
    """An image, removed afterwards: it is signed with keys that nobody has any more."""
    document = tdx.json("image", "build", str(recipe), "--yes", *options)
    try:
        yield document
    finally:
        tdx.run("image", "rm", document["key"])


@contextlib.contextmanager
def booted(tdx: Tdx, name: str, firmware: Path | None = None) -> Iterator[dict[str, Any]]:
    options = ["--platform", "emulated", "--image", name, "--yes"]
    if firmware is not None:
        options += ["--firmware", str(firmware)]
    try:
        yield tdx.json("up", "--name", name, *options)
    finally:
        with contextlib.suppress(AssertionError):
            tdx.run("down", name, "--force")


def ssh(tdx: Tdx, name: str, command: str, code: int = 0) -> str:
    return tdx.run("vm", "ssh", name, command, code=code).stdout


def test_a_customised_image_boots_as_a_signed_unified_kernel(
    tdx: Tdx, emulator_binary: Path, firmware: Path, tmp_path: Path
) -> None:
    key = tmp_path / "worker"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (tmp_path / "user.yaml").write_text(
        "#cloud-config\nwrite_files: [{path: /etc/seeded, content: seed}]\nusers: [{name: seeded}]\n"
    )
    (tmp_path / "setup.sh").write_text("id worker >/etc/who\ncat /etc/recipe >>/etc/who\n")
    recipe = tmp_path / "custom.yaml"
    recipe.write_text(
        """
boot: uki
secure_boot: own
hostname: customised
files: [{content: "from the recipe\\n", target: /etc/recipe, mode: 0640}]
users: [{name: worker, ssh_keys: worker.pub, groups: adm, sudo: true}]
scripts: setup.sh
cloud_init: {user_data: user.yaml}
guest_agent: true
"""
    )
    with built(tdx, recipe) as image, booted(tdx, "custom", firmware) as document:
        assert image["signed_by"]
        assert document["verdict"] == "accepted"
        assert document["emulated"] is True
        said = ssh(
            tdx, "custom", "cloud-init status --wait; hostname; cat /etc/who /etc/seeded; id -un seeded"
        )
        assert said.splitlines()[0].strip(".") == "status: done"
        assert said.splitlines()[1] == "customised"
        assert "uid=1000(worker)" in said
        assert "(adm)" in said
        assert "from the recipe" in said
        assert said.endswith("seedseeded\n")
        assert "Secure boot enabled" in ssh(tdx, "custom", "dmesg")
        assert ssh(tdx, "custom", "systemctl --failed --no-legend") == ""
        entered = as_worker(tdx, key, "sudo id -un")
        assert entered.stdout == "root\n", entered.stderr
        assert as_worker(tdx, tdx.files("custom") / "id_none", "true").returncode == 255
        answer = ssh(
            tdx,
            "custom",
            "modprobe vsock_loopback; systemctl start tdxstack-evidence.socket; "
            f"python3 -c '{ASK_OVER_VSOCK}'",
        )
        evidence = Evidence.from_json(answer)
        collected = Evidence.from_json((tdx.files("custom") / "evidence.json").read_bytes())
        assert evidence.nonce == NONCE
        assert evidence.host_key == collected.host_key
        assert evidence.ccel_data == collected.ccel_data


def as_worker(tdx: Tdx, key: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Enter with a key that only the image knows."""
    port = tdx.json("vm", "show", "custom")["ssh_port"]
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
    ]
    argv = ["ssh", "-F", "none", "-i", str(key), "-p", str(port)]
    argv += [word for option in options for word in ("-o", option)]
    return subprocess.run(
        [*argv, "worker@127.0.0.1", command], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_changed_byte_of_a_verified_root_is_an_error_when_it_is_read(
    tdx: Tdx, emulator_binary: Path, firmware: Path, tmp_path: Path
) -> None:
    """Built twice with the same bytes; then a file that nothing reads while the guest starts is changed."""
    blobs = {name: random.Random(name).randbytes(BLOB_SIZE) for name in ("good", "bad")}
    for name, data in blobs.items():
        (tmp_path / name).write_bytes(data)
    recipe = tmp_path / "verity.yaml"
    recipe.write_text(
        """
boot: uki
root: verity-erofs
secure_boot: own
format: raw
files: [{source: good, target: /opt/good}, {source: bad, target: /opt/bad}]
"""
    )
    beside = ("-o", str(tmp_path / "out"), "--reference", "--firmware", str(firmware))
    with built(tdx, recipe, "--verify", *beside) as image:
        assert image["differences"] == []
        run(["sha256sum", "--quiet", "--check", "verity.sha256"], cwd=tmp_path / "out", timeout=60)
        assert f"roothash={image['root_hash']} " in image["kernel_command_line"]
        disk = Path(image["path"])
        place = disk.read_bytes().index(blobs["bad"]) + BLOB_SIZE // 2
        disk.chmod(0o644)
        with disk.open("r+b") as file:
            file.seek(place)
            file.write(bytes([blobs["bad"][BLOB_SIZE // 2] ^ 1]))
        with booted(tdx, "verity", firmware) as document:
            assert document["verdict"] == "accepted"
            expected = json.loads((tmp_path / "out/verity.reference.json").read_bytes())["registers"]
            for register in ("mrtd", "rtmr1", "rtmr2"):
                assert document["registers"][register]["measured"] in expected[register]
            assert "overlay" in ssh(tdx, "verity", "findmnt --noheadings --output FSTYPE /")
            ssh(tdx, "verity", "cmp /opt/good /opt/good && echo new >/etc/hostname && grep new /etc/hostname")
            refused = tdx.run("vm", "ssh", "verity", "cat /opt/bad >/dev/null", code=1)
            assert "Input/output error" in refused.stderr + refused.stdout
            assert "is corrupted" in ssh(tdx, "verity", "dmesg")


def test_a_base_image_gets_files_and_nothing_else(tdx: Tdx, tmp_path: Path) -> None:
    base = Path(tdx.json("image", "build", "--yes")["path"])
    (tmp_path / "user.yaml").write_text("#cloud-config\n{}\n")
    (tmp_path / "based.yaml").write_text(
        f"base: {{image: {base}}}\n"
        "hostname: based\n"
        "cloud_init: {user_data: user.yaml}\n"
        "files:\n"
        "  - {content: deep, target: /opt/a b/c/file, mode: 0640}\n"
        "  - {content: merged, target: /bin/merged}\n"
    )
    with built(tdx, tmp_path / "based.yaml") as image, open_disk(Path(image["path"])) as disk:
        root = read_partitions(disk).partitions[1]
        system = Ext4(disk, root.start)
        assert system.read("/opt/a b/c/file") == b"deep"
        assert system.read("/usr/bin/merged") == b"merged"
        assert system.read("/etc/hostname") == b"based\n"
        assert system.read("/var/lib/cloud/seed/nocloud/user-data") == b"#cloud-config\n{}\n"
        assert system.read("/usr/lib/tdxstack/tdx-guest.pyz")
        with open_disk(base) as original:
            before = Ext4(original, read_partitions(original).partitions[1].start)
            assert system.read("/etc/passwd") == before.read("/etc/passwd")
            assert before.read("/opt/a b/c/file") is None
        assert image["packages"]["bash"]


def test_a_base_from_an_address_is_customised_and_boots(
    tdx: Tdx, emulator_binary: Path, tmp_path: Path
) -> None:
    """An image of ours without data plays the cloud image, so that cloud-init finds the seed only here."""
    (tmp_path / "plain.yaml").write_text(
        "cloud_init: {}\nguest_agent: true\nusers: [{name: worker, sudo: true}]\nformat: qcow2-zstd\n"
    )
    (tmp_path / "user.yaml").write_text("#cloud-config\nwrite_files: [{path: /etc/seeded, content: seed}]\n")
    with built(tdx, tmp_path / "plain.yaml") as plain, served(Path(plain["path"])) as (address, asked):
        digest = plain["files"]["disk.qcow2"]
        kept = Path(plain["path"]).parents[2] / "bases" / digest
        recipe = tmp_path / "cloud.yaml"
        for wrong, right in ((digest[1:] + "0", False), (digest, True)):
            recipe.write_text(
                f"base: {{url: {address}, sha256: {wrong}}}\n"
                "hostname: clouded\n"
                "cloud_init: {user_data: user.yaml}\n"
                "files: [{content: added, target: /etc/added, mode: 0600}]\n"
            )
            if not right:
                refused = tdx.run("image", "build", str(recipe), "--yes", code=3)
                assert f"{address} cannot be had" in refused.stderr
                assert not [*kept.parent.glob(f".{wrong}*")]
        with built(tdx, recipe) as image:
            assert image["kernel_version"] == plain["kernel_version"]
            downloads = len(asked)
            with built(tdx, recipe, "--name", "again"):
                assert len(asked) == downloads, "it is kept by its checksum"
            kept.unlink()
            with booted(tdx, "cloud") as document:
                assert document["verdict"] == "accepted"
                said = ssh(tdx, "cloud", "cloud-init status --wait; hostname; cat /etc/added /etc/seeded")
                assert said.split()[-2:] == ["clouded", "addedseed"]
                assert "status: done" in said
                assert ssh(tdx, "cloud", "stat -c %a:%U /etc/added") == "600:root\n"


@contextlib.contextmanager
def served(file: Path) -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that has one file: its address, and the paths that it has been asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(file.parent))

        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{file.name}", asked
        finally:
            server.shutdown()


def test_a_kernel_of_ones_own_boots_beside_the_disk(tdx: Tdx, emulator_binary: Path, tmp_path: Path) -> None:
    """The release's own kernel, as a local package; nothing of the disk is started by firmware.

    Microsoft's keys let shim start, and no kernel of Debian's without it.
    """
    firmware = tmp_path / "setup.fd"
    tdx.run("firmware", "enroll", "--setup-mode", "-o", str(firmware))
    apt = Workshop(surroundings()).apt(lambda archive: archive.stable)
    if apt.archive.distribution != "debian":
        pytest.skip("the kernel's package is named as Debian's")
    [meta] = apt.fetch(["linux-image-cloud-amd64"], with_dependencies=False)
    depends = run(["dpkg-deb", "--field", meta.path, "Depends"], timeout=60).stdout.decode()
    package = depends.split()[0]
    [kernel] = apt.fetch([package], with_dependencies=False)
    shutil.copy(kernel.path, tmp_path / "kernel.deb")
    (tmp_path / "direct.yaml").write_text("boot: direct\nkernel: {debs: kernel.deb}\n")
    with built(tdx, tmp_path / "direct.yaml") as image:
        assert image["packages"][package] == meta.version
        refused = tdx.json("predict", "--image", "direct", code=1)
        assert "Secure Boot will not let the kernel from QEMU start" in json.dumps(refused["events"])
        expected = tdx.json("predict", "--image", "direct", "--firmware", str(firmware))
        assert Path(expected["machine"]["kernel"]).parent == Path(image["path"]).parent
        with booted(tdx, "direct", firmware) as document:
            assert document["verdict"] == "accepted"
            measured = {name: register["measured"] for name, register in document["registers"].items()}
            assert {name: measured[name] for name in expected["registers"]} == expected["registers"]
            said = ssh(tdx, "direct", "uname -r; cat /proc/cmdline")
            assert said.split("\n", 1)[0] == image["kernel_version"] == package.removeprefix("linux-image-")
            assert said.endswith(f"{image['kernel_command_line']}\n")


@pytest.mark.parametrize("origin", ["distribution", "backports"])
def test_a_kernel_is_chosen_by_its_version(tdx: Tdx, origin: str) -> None:
    """With all that it depends on, as the archive has it; nothing is built."""
    workshop = Workshop(surroundings())

    def selected(kernel: dict[str, str]) -> Selection:
        recipe = ImageRecipe.model_validate({"distribution": "debian", "kernel": kernel})
        return select(recipe, workshop.origin(recipe).apt())

    newest = selected({"origin": origin})
    [version] = [deb.version for deb in newest.all if deb.name == "linux-image-cloud-amd64"]
    assert selected({"version": version}).identities() == newest.identities()


def test_a_script_that_fails_makes_no_image(tdx: Tdx, tmp_path: Path) -> None:
    (tmp_path / "fail.sh").write_text("echo no luck\nexit 3\n")
    (tmp_path / "failing.yaml").write_text("scripts: fail.sh\n")
    done = tdx.run("image", "build", str(tmp_path / "failing.yaml"), "--yes", "--json", code=3)
    document = json.loads(done.stdout)
    assert document["error"] == "script 01-fail.sh has failed: no luck"
    assert "failing" not in [image["name"] for image in tdx.json("image", "list")["images"]]


def test_a_killed_build_leaves_no_process_and_the_next_one_works(tdx: Tdx, tmp_path: Path) -> None:
    (tmp_path / "wait.sh").write_text("touch /run/scripts/../waiting-e2e\nexec sleep 98765\n")
    (tmp_path / "waiting.yaml").write_text("scripts: wait.sh\n")
    with tdx.started("image", "build", str(tmp_path / "waiting.yaml"), "--yes") as process:
        wait_for(lambda: sleepers() or process.poll() is not None)
        assert sleepers(), process.communicate()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: not sleepers(), 30)
    (tmp_path / "wait.sh").write_text("true\n")
    with built(tdx, tmp_path / "waiting.yaml") as image:
        cache = Path(image["path"]).parents[2]
        assert list(cache.glob("work.*")) == []


def sleepers() -> list[Path]:
    """Processes of the script that waits."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"sleep\x0098765\x00":
                found.append(path)
    return found
