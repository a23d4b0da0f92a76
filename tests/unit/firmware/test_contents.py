"""What an image is: variables, Secure Boot, release, problems."""

from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.firmware.contents import Contents, open_contents
from tdxstack.firmware.report import describe
from tdxstack.firmware.variables import SecureBoot, variables
from tdxstack.firmware.volumes import volumes
from tdxstack.measurement.profile import Profile, Shown
from tdxstack.measurement.smbios import FirmwareStrings
from tests.unit.firmware import firmware_images as made

PK = made.variable("PK", b"platform key")


def opened(files: list[bytes] | None = None, variables: list[bytes] | None = None) -> Contents:
    return open_contents(made.firmware(files, variables))


def test_a_current_image_is_taken_for_what_it_says() -> None:
    contents = opened()
    assert contents.profile == Profile("edk2-stable202608", contents.profile.shown)
    assert contents.profile.shown == Shown(
        acpi=True, smbios=True, setup_option=True, initrd_first=True, fat_flush=True
    )
    assert contents.profile_exact
    assert contents.strings == FirmwareStrings("Example EDK II", "2026.08+ds-2", "09/26/2026")
    assert contents.problems == []


def test_a_filling_instruction_before_a_text_is_no_letter_of_it() -> None:
    code = bytearray(made.release_strings())
    at = code.index(made.wide("Example EDK II"))
    code[at:at] = bytes(-(at + 2) % 16) + b"@\0"
    platform = made.file(made.SMBIOS_PLATFORM, label="SmbiosPlatformDxe", code=bytes(code))
    contents = opened(files=[platform, *made.dxe_files()])
    assert contents.strings == FirmwareStrings("Example EDK II", "2026.08+ds-2", "09/26/2026")


def test_an_image_that_says_nothing_gets_the_nearest_profile() -> None:
    contents = opened(files=made.dxe_files(version="unknown"))
    assert (contents.strings, contents.profile_exact) == (None, False)
    assert contents.profile.name == "edk2-stable202411"  # without fw_cfg events no newer one fits
    assert contents.profile.shown.smbios


def test_the_menu_is_an_option_and_setup_only_where_a_td_has_it() -> None:
    contents = opened()
    assert contents.menu is not None
    assert (contents.menu.label, contents.menu.file) == ("BootManagerMenuApp", UUID(made.MENU))
    assert contents.setup is None
    with_setup = opened(files=[*made.dxe_files(), made.file(made.UI_APP, label="UiApp", kind=9)])
    assert with_setup.setup is not None
    assert with_setup.setup.label == "EFI Firmware Setup"


def test_before_the_menu_had_a_file_of_its_own_it_was_ui_app() -> None:
    old = [made.file(made.BDS, label="BdsDxe"), made.file(made.UI_APP, label="UiApp", kind=9)]
    contents = opened(files=old)
    assert contents.menu is not None
    assert (contents.menu.label, contents.setup) == ("UiApp", None)


@pytest.mark.parametrize(
    ("stored", "state"),
    [
        ([], SecureBoot.SETUP),
        ([PK], SecureBoot.ENABLED),
        ([PK, made.variable("SecureBootEnable", b"\1", vendor=made.SWITCH)], SecureBoot.ENABLED),
        ([PK, made.variable("SecureBootEnable", b"\0", vendor=made.SWITCH)], SecureBoot.DISABLED),
        ([made.variable("PK", b"deleted", state=0x3D)], SecureBoot.SETUP),
    ],
)
def test_secure_boot_state(stored: list[bytes], state: SecureBoot) -> None:
    assert opened(variables=stored).secure_boot is state


def test_without_its_driver_secure_boot_is_unsupported_and_measured_as_empty() -> None:
    contents = opened(files=[made.file(made.BDS)], variables=[PK])
    assert contents.secure_boot is SecureBoot.UNSUPPORTED
    assert contents.policy[0].data == b""


def test_policy_variables_come_in_the_measured_order() -> None:
    names = [variable.name for variable in opened(variables=[PK]).policy]
    assert names == ["SecureBoot", "PK", "KEK", "db", "dbx"]
    dbt = made.variable("dbt", b"x", vendor="d719b2cb-3d3a-4596-a3bc-dad00e67656f")
    assert [variable.name for variable in opened(variables=[dbt]).policy][-1] == "dbt"


def test_a_variable_that_is_being_rewritten_counts_once() -> None:
    old, new = made.variable("PK", b"old", state=0x3E), made.variable("PK", b"new")
    for stored in ([old, new], [new, old]):
        [found] = opened(variables=stored).variables.values()
        assert found.data == b"new"


def test_says_why_no_td_can_start() -> None:
    assert "no table of GUIDs" in open_contents(made.firmware(metadata=False)).problems[0]
    assert "no boot manager" in opened(files=[made.file(made.MENU)]).problems[0]
    assert not opened(files=[made.file(made.BDS)]).measures
    assert opened().measures
    with pytest.raises(MalformedError, match="no firmware volume"):
        open_contents(b"MZ" + bytes(9000))


def test_report_names_everything(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "x.fd"
    document = describe(path, made.firmware(variables=[PK]))
    assert document["can_start_td"] is True
    assert document["secure_boot"] == "enabled"
    assert document["profile"] == {"name": "edk2-stable202608", "exact": True}
    assert isinstance(document["variables"], list)
    assert document["variables"][0]["name"] == "PK"
    assert describe(path, made.firmware(metadata=False))["mrtd"] is None
    with pytest.raises(MalformedError, match=r"firmware .*x\.fd: firmware volumes: the volume at"):
        describe(path, made.firmware()[:0x1000])


@given(st.data())
def test_any_variable_store_is_read_or_refused(data: st.DataObject) -> None:
    image = bytearray(made.store([PK, made.variable("db", b"x" * 40)]))
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        variables(volumes(bytes(image)))


def test_a_variable_that_leaves_the_store_is_refused() -> None:
    image = bytearray(made.store([PK]))
    at = 72 + 28 + 40
    image[at : at + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(MalformedError, match="the variable at offset 28 claims"):
        variables(volumes(bytes(image)))
