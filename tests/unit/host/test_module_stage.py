from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tdxstack.abi.tdx_blob import VERSION_2, TdxBlob
from tdxstack.errors import MalformedError, RejectedError, TdxError, UnavailableError
from tdxstack.files import write_atomically
from tdxstack.host import module_stage
from tdxstack.host.module import ModuleFile
from tdxstack.host.module_stage import (
    Target,
    boot_targets,
    find_esp,
    stage,
    unstage,
    update_image,
    update_running,
)
from tests.module_files import MODULE, signed
from tests.scripted_host import ScriptedHost

SIGSTRUCT = signed()
MODULE_FILE = ModuleFile(Path("m.bin"), "separate files", MODULE, SIGSTRUCT, None)


@pytest.fixture
def esp(tmp_path: Path) -> Path:
    (tmp_path / "esp/EFI/BOOT").mkdir(parents=True)
    return tmp_path / "esp"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_partition_is_found_where_it_is_mounted() -> None:
    host = ScriptedHost()
    host.files["/proc/self/mounts"] = (
        b"/dev/sda2 / ext4 rw 0 0\n/dev/sdb1 /mnt vfat rw 0 0\n/dev/sda1 /boot/efi vfat rw 0 0\n"
    )
    assert find_esp(host) == Path("/boot/efi")
    host.files["/proc/self/mounts"] = b"/dev/sdb1 /mnt vfat rw 0 0\nbroken\n"
    with pytest.raises(UnavailableError, match="no FAT file system"):
        find_esp(host)


def test_module_and_sigstruct_are_written_where_the_bios_looks(esp: Path, state: Path) -> None:
    targets = boot_targets(MODULE_FILE, esp)
    assert [target.action for target in targets] == ["create", "create"]
    assert tree(esp) == {}
    assert stage(targets, state) == [target.path for target in targets]
    assert tree(esp) == {
        "EFI/TDX/TDX-SEAM.so": MODULE,
        "EFI/TDX/TDX-SEAM.so.sigstruct": SIGSTRUCT.to_bytes(),
    }
    assert stage(boot_targets(MODULE_FILE, esp), state) == []


def test_a_boot_loader_that_installs_blobs_gets_one(esp: Path, state: Path) -> None:
    (esp / "EFI/tdx").mkdir()
    (esp / "EFI/tdx/TdxModuleLoader.efi").write_bytes(b"MZ")
    (target,) = boot_targets(MODULE_FILE, esp)
    assert target.path == esp / "EFI/tdx/TDX-BLOB"
    assert TdxBlob.parse(target.data).module == MODULE


def test_other_folders_are_no_system_partition(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="has no EFI"):
        boot_targets(MODULE_FILE, tmp_path)


def test_undoing_puts_back_what_was_there(esp: Path, state: Path) -> None:
    (esp / "EFI/TDX").mkdir()
    (esp / "EFI/TDX/TDX-SEAM.so").write_bytes(b"old module")
    before = tree(esp)
    stage(boot_targets(MODULE_FILE, esp), state)
    other = ModuleFile(Path("n.bin"), "separate files", MODULE * 2, signed(MODULE * 2), None)
    stage(boot_targets(other, esp), state)
    assert len(unstage(state)) == 2
    assert tree(esp) == before
    assert tree(state) == {"lock": b""}
    with pytest.raises(UnavailableError, match="no TDX module is staged"):
        unstage(state)


def test_nothing_is_made_where_there_is_nothing_to_undo(state: Path) -> None:
    with pytest.raises(UnavailableError, match="no TDX module is staged"):
        unstage(state)
    assert not state.exists()


def test_a_file_that_changed_after_the_plan_stops_it(esp: Path, state: Path) -> None:
    targets = boot_targets(MODULE_FILE, esp)
    (esp / "EFI/TDX").mkdir()
    targets[0].path.write_bytes(b"somebody else's")
    with pytest.raises(RejectedError, match="has changed since the plan"):
        stage(targets, state)
    assert tree(esp) == {"EFI/TDX/TDX-SEAM.so": b"somebody else's"}


def test_a_file_that_changed_after_staging_is_not_undone(esp: Path, state: Path) -> None:
    targets = boot_targets(MODULE_FILE, esp)
    stage(targets, state)
    targets[1].path.write_bytes(b"somebody else's")
    staged = tree(esp)
    with pytest.raises(RejectedError, match="was changed after it was staged"):
        unstage(state)
    assert tree(esp) == staged


def test_staging_over_somebody_elses_file_keeps_that(esp: Path, state: Path) -> None:
    stage(boot_targets(MODULE_FILE, esp), state)
    (esp / "EFI/TDX/TDX-SEAM.so").write_bytes(b"somebody else's")
    stage(boot_targets(MODULE_FILE, esp), state)
    unstage(state)
    assert tree(esp) == {"EFI/TDX/TDX-SEAM.so": b"somebody else's"}


@pytest.mark.parametrize("writes", range(6))
def test_an_interruption_at_any_write_can_be_undone_or_completed(
    esp: Path, state: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (esp / "EFI/TDX").mkdir()
    (esp / "EFI/TDX/TDX-SEAM.so").write_bytes(b"old module")
    before = tree(esp)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_stage, "write_atomically", failing_after(writes))
        with pytest.raises(KeyboardInterrupt):
            stage(boot_targets(MODULE_FILE, esp), state)
            raise KeyboardInterrupt  # the last round is not interrupted
    try:
        unstage(state)
    except UnavailableError:
        assert writes < 2, "something was written and nothing is known of it"
    assert tree(esp) == before
    stage(boot_targets(MODULE_FILE, esp), state)
    assert tree(esp)["EFI/TDX/TDX-SEAM.so"] == MODULE
    unstage(state)
    assert tree(esp) == before


def failing_after(count: int) -> Callable[..., None]:
    left = iter(range(count))

    def interrupted(path: Path, data: bytes, *, mode: int | None = 0o644) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write_atomically(path, data, mode=mode)

    return interrupted


@pytest.mark.parametrize(
    "journal", [b"", b"[]", b'{"files": 1}', b'{"files": {"/x": {"before": "../../x", "after": ""}}}']
)
def test_a_damaged_journal_is_not_followed(state: Path, journal: bytes) -> None:
    state.mkdir()
    (state / "staged.json").write_bytes(journal)
    with pytest.raises(MalformedError, match="is damaged"):
        unstage(state)


def kernel(folder: Path, monkeypatch: pytest.MonkeyPatch, statuses: list[str], error: str = "") -> Path:
    """The kernel's upload directory, whose status is each of `statuses` in turn and then the last."""
    folder.mkdir()
    left = iter(statuses)

    def text(path: Path) -> str:
        return error if path.name == "error" else next(left, statuses[-1])

    monkeypatch.setattr(module_stage, "_text", text)
    return folder


def test_the_kernel_gets_a_blob_of_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kernel(tmp_path / "tdx_module", monkeypatch, ["idle", "transferring", "programming", "idle"])
    image = update_image(MODULE_FILE)
    assert TdxBlob.parse(image).version == VERSION_2
    waits: list[float] = []
    update_running(image, folder, sleep=waits.append)
    assert (folder / "data").read_bytes() == image
    assert (folder / "loading").read_text() == "0"
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("statuses", "error", "raised", "message"),
    [
        (["programming"], "", UnavailableError, "another update"),
        (["idle"], "transferring:firmware-invalid", RejectedError, "firmware-invalid"),
        (["idle", "programming"], "", RejectedError, "did not end"),
    ],
)
def test_updates_that_fail(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    statuses: list[str],
    error: str,
    raised: type[TdxError],
    message: str,
) -> None:
    folder = kernel(tmp_path / "tdx_module", monkeypatch, statuses, error)
    with pytest.raises(raised, match=message):
        update_running(update_image(MODULE_FILE), folder, sleep=lambda _: None, polls=5)


def test_a_kernel_without_the_interface(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        update_running(b"", tmp_path / "none", sleep=lambda _: None)


def test_a_target_says_what_happens_to_it(tmp_path: Path) -> None:
    assert Target(tmp_path, b"x", None).action == "create"
    assert Target(tmp_path, b"x", b"y").action == "replace"
    assert Target(tmp_path, b"x", b"x").action == "keep"
