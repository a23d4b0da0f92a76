from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.seam_sigstruct import DEBUG_SIGNED
from tdxstack.abi.tdx_blob import VERSION_1, VERSION_2, TdxBlob
from tdxstack.errors import MalformedError, RejectedError, UsageError
from tdxstack.host.module import (
    ModuleFile,
    Release,
    Releases,
    check_file,
    cpu_name,
    parse_mapping,
    read_module,
    read_sound_module,
    signature_holds,
    version_key,
)
from tests.module_files import MODULE, signed

RELEASES = Releases.load()


def written(folder: Path, name: str = "tdx_module_1.5.99.bin") -> Path:
    path = folder / name
    path.write_bytes(MODULE)
    path.with_suffix(".sigstruct").write_bytes(signed().to_bytes())
    return path


def statuses(module: ModuleFile, releases: Releases = RELEASES) -> dict[str, str]:
    return {check.id: check.status.value for check in check_file(module, releases)}


def test_the_table_of_releases_is_consistent() -> None:
    assert len(RELEASES.releases) == 11
    assert len({release.mrseam for release in RELEASES.releases}) == 11
    assert all(len(release.mrseam) == 48 for release in RELEASES.releases)
    assert [release.version for release in RELEASES.releases] == sorted(r.version for r in RELEASES.releases)
    assert all(len(signer) == 96 for signer in RELEASES.signers)


def test_a_module_and_its_sigstruct_are_read_from_two_files_or_one(tmp_path: Path) -> None:
    two = read_module(written(tmp_path), None, RELEASES)
    for version, form in ((VERSION_1, "blob 1.0"), (VERSION_2, "blob 2.0")):
        path = tmp_path / "x.blob"
        path.write_bytes(TdxBlob.join(version, signed().to_bytes(), MODULE).to_bytes())
        one = read_module(path, None, RELEASES)
        assert one.form == form
        assert (one.module, one.sigstruct) == (two.module, two.sigstruct)
    assert two.form == "separate files"
    assert two.mrseam == two.sigstruct.seamhash


def test_a_sigstruct_is_found_under_both_names_that_intel_uses(tmp_path: Path) -> None:
    path = tmp_path / "intel_tdx_module.so"
    path.write_bytes(MODULE)
    with pytest.raises(UsageError, match="no sigstruct beside"):
        read_module(path, None, RELEASES)
    (tmp_path / "intel_tdx_module.so.sigstruct").write_bytes(signed().to_bytes())
    assert read_module(path, None, RELEASES).version == ""
    with pytest.raises(UsageError, match="is a sigstruct"):
        read_module(tmp_path / "intel_tdx_module.so.sigstruct", None, RELEASES)


def test_only_a_module_that_the_seam_loader_takes_is_sound(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read_sound_module(path, RELEASES).mrseam == hashlib.sha384(MODULE).digest()
    path.write_bytes(MODULE + bytes(4096))
    with pytest.raises(RejectedError, match="not of one release"):
        read_sound_module(path, RELEASES)
    path.write_bytes(MODULE)
    for sigstruct, reason in (
        (replace(signed(), minor_svn=12), "changed or is damaged"),
        (signed(module_type=DEBUG_SIGNED), "debug-signed"),
    ):
        path.with_suffix(".sigstruct").write_bytes(sigstruct.to_bytes())
        with pytest.raises(RejectedError, match=reason):
            read_sound_module(path, RELEASES)


def test_the_version_is_that_of_the_mrseam_and_else_of_the_name(tmp_path: Path) -> None:
    module = read_module(written(tmp_path), None, RELEASES)
    assert (module.version, module.release) == ("1.5.99", None)
    known = Release("1.5.77", module.mrseam, RELEASES.releases[0].built, (11, 1))
    again = read_module(module.path, None, Releases((known,), {}))
    assert again.version == "1.5.77"


def test_a_good_file_passes_and_its_signer_has_to_be_known(tmp_path: Path) -> None:
    module = read_module(written(tmp_path), None, RELEASES)
    assert statuses(module) == {
        "module.hash": "ok",
        "module.signature": "ok",
        "module.signer": "warning",
        "module.production": "ok",
    }
    assert statuses(module, Releases((), {module.signer: "us"}))["module.signer"] == "ok"


def test_each_check_of_a_file_can_fail(tmp_path: Path) -> None:
    module = read_module(written(tmp_path), None, RELEASES)
    assert statuses(replace(module, module=MODULE[:-1] + b"\0"))["module.hash"] == "fail"
    changed = replace(module.sigstruct, minor_svn=12)
    assert statuses(replace(module, sigstruct=changed))["module.signature"] == "fail"
    debug = signed(module_type=DEBUG_SIGNED)
    assert statuses(replace(module, sigstruct=debug))["module.production"] == "fail"


def test_signatures_that_only_look_right_do_not_hold() -> None:
    good = signed()
    assert signature_holds(good)
    assert not signature_holds(replace(good, exponent=3))
    assert not signature_holds(replace(good, signature=b"\xff" * 384))
    assert not signature_holds(replace(good, signature=bytes(384)))
    assert not signature_holds(replace(good, modulus=bytes(384)))


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(100), bytes(5000)])
def test_other_files_are_malformed(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path)
    path.write_bytes(data)
    with pytest.raises(MalformedError):
        read_module(path, None, RELEASES)


def test_absent_and_endless_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_module(tmp_path / "none", None, RELEASES)
    with pytest.raises(MalformedError, match="more than"):
        read_module(Path("/dev/zero"), None, RELEASES)


def test_cpus_have_the_names_people_use() -> None:
    assert cpu_name(0x806F8) == "Sapphire Rapids (family 6, model 143)"
    assert cpu_name(0xA06D1) == "Granite Rapids (family 6, model 173)"
    assert cpu_name(0x00B40F40) == "family 26, model 68"


def test_versions_compare_as_numbers() -> None:
    assert version_key("1.5.05") == version_key("1.5.5") < version_key("1.5.16")
    for wrong in ("1.5", "1.5.x", "", "1.5.16.1", "1.5.-1", "1.5.999999"):
        with pytest.raises(MalformedError, match="no version"):
            version_key(wrong)


MAPPING = b"""{"tdx_module_releases": [{"version": "1.5.16",
    "min_module_version_for_td_preserving": "1.5.01", "min_seamldr_versions": ["1.5.00", "2.0.00"]}]}"""


def test_the_mapping_file_is_read() -> None:
    row = parse_mapping(MAPPING)[(1, 5, 16)]
    assert (row.minimum_running, row.seamldr_versions) == ("1.5.01", ("1.5.00", "2.0.00"))


@given(st.one_of(st.binary(max_size=50), st.sampled_from([MAPPING[:n] for n in range(len(MAPPING))])))
def test_other_mapping_files_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_mapping(data)


def test_a_mapping_file_without_versions_is_malformed() -> None:
    with pytest.raises(MalformedError):
        parse_mapping(MAPPING.replace(b"1.5.01", b"soon"))
    with pytest.raises(MalformedError):
        parse_mapping(b"[" * 100_000)
