from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tdxstack.errors import MalformedError
from tdxstack.image.kernel import REQUIRED, WANTED
from tdxstack.image.recipe import (
    Base,
    Boot,
    CloudInit,
    File,
    Format,
    ImageRecipe,
    Kernel,
    Mkosi,
    Root,
    User,
    parse_recipe,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHNvbWUga2V5IG9mIHRoaXJ0eS10d28gYnl0ZXM= me"


def problem(text: str, directory: Path = Path()) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_recipe(text.encode(), directory)
    assert caught.value.hint
    return caught.value.message


def test_nothing_is_the_image_that_machines_start_from() -> None:
    recipe = parse_recipe(b"", Path())
    assert recipe == ImageRecipe()
    assert (recipe.name, recipe.boot, recipe.root, recipe.format) == ("tdx", "grub", "ext4", "qcow2")
    assert recipe.size == 4 << 30


def test_everything(tmp_path: Path) -> None:
    for name in ("app.conf", "setup.sh", "user.yaml", "k.deb"):
        (tmp_path / name).write_text(name)
    (tmp_path / "key.pub").write_text(KEY + "\n")
    (tmp_path / "keys").mkdir()
    recipe = parse_recipe(
        b"""
name: web
distribution: debian
release: trixie
mirror: https://mirror.invalid/debian
kernel: {debs: k.deb}
boot: uki
root: ext4
size: 2500M
hostname: web.example
kernel_options: [quiet, panic=1]
packages: [nginx, "curl=8.1-1"]
files:
  - {source: app.conf, target: /etc/app.conf, mode: 0600}
  - {content: "hello\\n", target: /etc/motd}
users:
  - {name: me, ssh_keys: key.pub, groups: [adm], sudo: true}
ssh_keys: key.pub
cloud_init: {user_data: user.yaml}
guest_agent: true
scripts: setup.sh
secure_boot: keys
format: raw
""",
        tmp_path,
    )
    assert (recipe.boot, recipe.root, recipe.format) == (Boot.UKI, Root.EXT4, Format.RAW)
    assert recipe.size == 2500 << 20
    assert recipe.kernel.debs == [tmp_path / "k.deb"]
    assert recipe.files[0].source == tmp_path / "app.conf"
    assert (recipe.files[0].target, recipe.files[0].mode) == ("etc/app.conf", 0o600)
    assert recipe.files[1].content == "hello\n"
    assert recipe.users[0].ssh_keys == recipe.ssh_keys == [KEY]
    assert recipe.scripts == [tmp_path / "setup.sh"]
    assert recipe.secure_boot == tmp_path / "keys"
    assert recipe.cloud_init is not None
    assert recipe.cloud_init.user_data == tmp_path / "user.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distribution: gentoo", "distribution: 'gentoo' is not one of debian, ubuntu"),
        ("release: Trixie", "release: "),
        ("boot: lilo", "boot: 'lilo' is not one of grub, uki, direct"),
        ("size: 10", "size: '10' is no size between 1G and 16T"),
        ("size: 1M", "size: '1M' is no size"),
        ("packages: [Foo]", "packages[0]: "),
        ("files: [{target: /etc/x}]", "files[0]: give either source or content"),
        ("files: [{content: x, target: etc/x}]", "files[0].target: 'etc/x' is no absolute path"),
        ("files: [{content: x, target: /etc/../x}]", "files[0].target: "),
        ("files: [{content: x, target: /etc/x, mode: 0999}]", "files[0].mode: '0999' is no mode"),
        ("files: [{source: absent, target: /etc/x}]", "files[0].source: absent is no file or directory"),
        ("scripts: absent", "scripts[0]: absent is no file"),
        ("users: [{name: root}]", "users[0].name: root is there already"),
        ("users: [{name: a}, {name: a}]", "users: 'a' is there twice"),
        ("users: [{name: a, password: x}]", "users[0]: password: images have no passwords; give ssh_keys"),
        ("root_password: x", "document: root_password: images have no passwords"),
        ("ssh_keys: absent.pub", "ssh_keys[0]: 'absent.pub' is neither an SSH public key nor a file"),
        ("ssh_keys: ssh-ed25519 AAAA", "ssh_keys[0]: the SSH public key is not one of type"),
        ("kernel_options: ['a=\"b\"']", "document: kernel_options: GRUB does not pass 'a=\"b\"' on as it is"),
        ("root: verity-erofs", "document: boot: GRUB's configuration is not signed"),
        ("{root: verity-ext4, boot: uki, size: 4G}", "document: size: a verified root is as large"),
        ("secure_boot: own", "document: secure_boot: only what boots as uki"),
        ("{boot: uki, secure_boot: absent}", "secure_boot: absent is no directory of keys"),
        ("base: {}", "base: give one of image, url and mkosi"),
        ("base: {url: 'https://x.invalid/y'}", "base: sha256: what is downloaded needs its checksum"),
        ("base: {url: 'ftp://x.invalid/y'}", "base.url: "),
        ("base: {mkosi: {distribution: debian, release: trixie}}", "base.mkosi.packages: Field required"),
        ("base: {mkosi: {distribution: slackware}}", "base.mkosi.distribution: 'slackware' is not one of"),
        ("base: {image: absent}", "base.image: absent is no file"),
        ("{base: {url: 'https://x/y', sha256: AA}}", "base.sha256: "),
        ("kernel: vanilla", "kernel.origin: 'vanilla' is not one of default, distribution, backports"),
        ("kernel: {origin: backports, version: 6.1}", "kernel: give one of origin, version and debs"),
        ("kernel_options: [a b]", "kernel_options[0]: "),
        ("colour: red", "colour: there is no such key"),
        ("- name: x", "document: "),
        ("name: [", "recipe: "),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str) -> None:
    assert said in problem(text)


def test_all_that_is_wrong_is_told() -> None:
    said = problem("size: 1\nboot: x\nusers: [{name: 1a}]")
    assert "size: " in said
    assert "boot: " in said
    assert "users[0].name: " in said


def test_a_base_image_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "cloud.qcow2").write_bytes(b"")
    said = problem("base: {image: cloud.qcow2}\nboot: uki\npackages: [x]\n", tmp_path)
    assert "boot, packages: a base image keeps its own" in said
    assert "cloud_init" in said


def test_a_private_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    assert "is a private key" in problem("ssh_keys: id", tmp_path)


def test_options_take_the_place_of_what_the_recipe_says() -> None:
    recipe = parse_recipe(b"boot: grub\npackages: [nginx]\n", Path(), {"boot": "uki", "packages": ["curl"]})
    assert (recipe.boot, recipe.packages) == (Boot.UKI, ["curl"])


def test_a_recipe_without_a_name_has_its_files() -> None:
    assert parse_recipe(b"", Path(), name="web").name == "web"
    assert parse_recipe(b"name: db", Path(), name="web").name == "db"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_recipe_or_malformed(text: bytes) -> None:
    try:
        parse_recipe(text, Path("/nonexistent"))
    except MalformedError as error:
        assert error.message.startswith("recipe: ")


REFERENCE = Path(__file__).parents[3] / "docs/reference/image-recipe.md"


def test_the_reference_has_every_key() -> None:
    listed = set(re.findall(r"^\| `([a-z][a-z0-9_.]*)` \|", REFERENCE.read_text(), re.MULTILINE))
    parts: dict[str, type[BaseModel]] = {
        "files": File,
        "users": User,
        "cloud_init": CloudInit,
        "kernel": Kernel,
        "base": Base,
        "base.mkosi": Mkosi,
    }
    known = set(ImageRecipe.model_fields) - {"kernel"}
    known |= {f"{key}.{name}" for key, model in parts.items() for name in model.model_fields}
    assert listed == known


def test_the_reference_names_every_kernel_option() -> None:
    text = REFERENCE.read_text()
    for name in (*REQUIRED, *WANTED):
        assert f"`{name}`" in text


@pytest.mark.parametrize("page", [REFERENCE, REFERENCE.parents[1] / "how-to/build-an-image.md"])
def test_examples_are_recipes(page: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "enable-nginx.sh").write_text("")
    (tmp_path / "deploy.pub").write_text(KEY)
    (tmp_path / "user.yaml").write_text("")
    (tmp_path / "debian-13-genericcloud-amd64.qcow2").write_text("")
    for example in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        assert parse_recipe(example.encode(), tmp_path).name in ("web", "cloud", "testing")
