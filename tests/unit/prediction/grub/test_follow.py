"""GRUB's configuration, followed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.prediction.grub import files as files_module
from tdxstack.prediction.grub import follow as follow_module
from tdxstack.prediction.grub.files import Volume
from tdxstack.prediction.grub.follow import GrubBoot, follow

UUID = "7c1b4f4e-2d7a-4c0b-9d0e-000000000001"
SEARCH = f"search --no-floppy --fs-uuid --set=root {UUID}\n"
ENVIRONMENT = "# GRUB Environment Block\nsaved_entry=a>b\nother=x\\\\y\n#####"


class Tree:
    def __init__(self, files: dict[str, str]) -> None:
        self.files = {name: text.encode("utf-8", "surrogateescape") for name, text in files.items()}

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def is_directory(self, path: str) -> bool:
        return any(name.startswith(path.rstrip("/") + "/") for name in self.files)


ROOT = {
    "/kernel": "K",
    "/initrd": "I",
    "/second": "J",
    "/more.cfg": "linux /kernel from=more\nboot\n",
    "/parts/set.cfg": "set from=parts\n",
    "/empty": "",
}


def boot(text: str, files: dict[str, str] | None = None, *, secure_boot: bool = False) -> GrubBoot:
    """What is started; `files` lie beside the configuration."""
    esp = {"/efi/grub.cfg": text, **{f"/efi/{name}": content for name, content in (files or {}).items()}}
    start = Volume("hd0,gpt1", Tree(esp), "AAAA-0001", "ESP")
    return follow(
        start, "/efi/grub.cfg", [start, Volume("hd0,gpt2", Tree(ROOT), UUID, "root")], secure_boot=secure_boot
    )


def line(text: str, files: dict[str, str] | None = None) -> str:
    """The command line of the kernel that a configuration starts."""
    return boot(text, files).command_line.removeprefix("BOOT_IMAGE=/kernel").strip()


def test_a_straight_configuration() -> None:
    kernel = "linux /kernel root=UUID=1 'rw'  quiet\ninitrd /initrd /second\nboot\n"
    found = boot("# comment\n" + SEARCH + "set timeout=0\n" + kernel)
    assert found == GrubBoot("/kernel", b"K", b"I\0\0\0J", "BOOT_IMAGE=/kernel root=UUID=1 rw quiet")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a  b\t'c d'", 'a b "c d"'),
        ("x='a \"b\"'", '"x=a \\"b\\""'),
        ("back\\slash 'q\\'", "backslash q\\\\"),
        ("a\\\nb", "ab"),
        ('"$one" ${one}x $absent "$absent" \'$one\' "\\$one"', "1 1x  $one $one"),
        ('$two "$two" x$two', '2 3 "2 3" x2 3'),
        ("$?", "0"),
        ("a#b # rest", "a#b"),
    ],
)
def test_words(words: str, expected: str) -> None:
    assert line(SEARCH + f"set one=1\nset two='2 3'\nlinux /kernel {words}\nboot\n") == expected


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        *(("true", True), ("false", False), ("! false", True), ("! true", False)),
        *(("[ a = a ]", True), ("[ a != a ]", False), ("test a == b", False), ("[ 10 -gt 9 ]", True)),
        *(("[ -z '' ]", True), ("[ -n '' ]", False), ("[ x ]", True), ("[ '' ]", False), ("[ ]", True)),
        *(("[ -f /kernel ]", True), ("[ -f /parts ]", False), ("[ -d /parts ]", True), ("[ -e /no ]", False)),
        *(("[ -e /parts -a -s /kernel ]", True), ("[ -s /empty ]", False), ("[ -f '' ]", False)),
        *(("[ a = b -o c = c ]", True), ("[ ! a = b ]", True), ("[ ( a = b -o x ) -a y ]", True)),
        *(("[ a = a -a ! ( b ) ]", False), ("[ -f (hd0,gpt1)/efi/grub.cfg ]", True), ("[ a -le b ]", True)),
        *(('[ "$grub_platform" = efi ]', True), ("[ x$feature_menuentry_id = xy ]", True)),
        *(("loadfont unicode", True), ("fwsetup --is-supported", True), ("load_env", False)),
    ],
)
def test_conditions(condition: str, holds: bool) -> None:
    text = f"if {condition}; then\n x=yes\nelse x=no; fi\nlinux /kernel $x\nboot\n"
    assert line(SEARCH + text) == ("yes" if holds else "no")


def test_loops_and_functions() -> None:
    text = """
function add {
  all="$all$1"
  if [ "$2" ]; then return; fi
  all="${all}."
}
for one in a 'b c' $empty; do add "$one"; done
add d 2
while [ x$n != x111 ]; do n=1$n; done
until [ x$m = x22 ]; do m=2$m; done
linux /kernel "$all" $# $n $m
boot
"""
    assert line(SEARCH + text) == '"a.b c.d" 0 111 22'


def test_further_files() -> None:
    assert line(SEARCH + "source /parts/set.cfg\nlinux /kernel $from\nboot\n") == "parts"
    assert line(SEARCH + "configfile /more.cfg\nlinux /initrd\n") == "from=more"
    inner = "linux /kernel $exported $local $config_directory\nboot\n"
    text = "exported=1\nexport exported\nlocal=2\nconfigfile $prefix/inner.cfg\n"
    assert line(SEARCH + text, {"inner.cfg": inner}) == "1 (hd0,gpt1)/efi"


def test_what_follows_boot_is_not_run() -> None:
    assert boot(SEARCH + "linux /kernel a\nboot\nlinux /initrd b\n").kernel == b"K"


def test_a_second_kernel_forgets_the_first_ones_initrd() -> None:
    assert boot(SEARCH + "linux /kernel\ninitrd /initrd\nlinux /kernel b\nboot\n").initrd == b""


@pytest.mark.parametrize(
    "search",
    [
        SEARCH,
        f"search -u -s root --hint-efi=hd0,gpt2 {UUID.upper()}",
        f"search.fs_uuid {UUID} root hd0,gpt2",
        "search --label --set=root root",
        "search.fs_label root",
        "search --file --set=root /parts/set.cfg",
        "search.file /parts root",
        "set root=hd0,gpt2",
        "set root='hd0,msdos2'",
        "root=(hd0)\nset root=hd0,2",
    ],
)
def test_file_systems_are_found(search: str) -> None:
    assert boot(f"{search}\nlinux /kernel\nboot\n").kernel == b"K"


MENU = """
set timeout=0
menuentry 'first one' --class x $menuentry_id_option 'one' { linux /kernel 1 $1; }
submenu more --id sub {
  menuentry 'a' --id x { linux /kernel 2
  }
  menuentry b --unrestricted {
    linux /kernel 3
    initrd /initrd
  }
}
menuentry 'x>y' { linux /kernel 4; boot; }
"""


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        *(("0", "1 first one"), ("1", "2"), ("1>1", "3"), ("2", "4"), ("", "1 first one")),
        *(("one", "1 first one"), ("sub>b", "3"), ("more>x", "2"), ("x>>y", "4")),
        *(("9", "1 first one"), ("nothing", "1 first one"), ("sub>nothing", "2")),
        *(("02", "4"), ("0x2", "4"), ("08", "1 first one"), ("0X2", "1 first one")),
    ],
)
def test_menus_start_their_default(default: str, expected: str) -> None:
    assert line(SEARCH + f"default='{default}'\n" + MENU) == expected


def test_the_saved_entry_counts() -> None:
    menu = "set timeout=5\nsubmenu a { menuentry b { linux /kernel saved; } }\n"
    text = (
        "menuentry c { linux /kernel; }\nif [ -s $prefix/grubenv ]; then load_env; fi\ndefault=$saved_entry\n"
    )
    assert line(SEARCH + menu + text, {"grubenv": ENVIRONMENT}) == "saved"
    shown = "load_env other\nlinux /kernel $other $saved_entry\nboot\n"
    assert line(SEARCH + shown, {"grubenv": ENVIRONMENT}) == "x\\\\y"


def test_a_file_of_variables_is_bounded() -> None:
    with pytest.raises(MalformedError, match=r"line 2: \(hd0,gpt1\)/efi/grubenv has 16385 bytes"):
        boot(SEARCH + "load_env\n", {"grubenv": "x" * 16385})


def test_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_module, "MAX_INITRD", 2)
    assert boot(SEARCH + "linux /kernel\ninitrd /initrd\nboot\n").initrd == b"I"
    with pytest.raises(MalformedError, match="its initrds have more than 2 bytes"):
        boot(SEARCH + "linux /kernel\ninitrd /initrd /initrd /initrd\nboot\n")
    monkeypatch.setattr(files_module, "MAX_READ", 100)
    with pytest.raises(MalformedError, match="asks for files of more than 100 bytes"):
        boot(SEARCH + "linux /kernel\n" + "[ -s /more.cfg ]\n" + "[ -s //more.cfg ]\n" + "boot\n")


def test_secure_boot_is_seen() -> None:
    text = SEARCH + "linux /kernel $lockdown\nboot\n"
    assert boot(text, secure_boot=True).command_line.endswith(" y")
    assert boot(text).command_line == "BOOT_IMAGE=/kernel"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("menuentry x\n", "line 1: a menu entry has no title or no commands"),
        ("blscfg\n", "the command 'blscfg' is not followed"),
        ("if cpuid -l; then true; fi\n", "the command 'cpuid' asks the machine"),
        ("linux 'unclosed\n", 'line 1: "\'unclosed\\n" is not understood'),
        ("true\nif true; then\n", "ends too early"),
        ("fi\n", "line 1: 'fi' is not understood"),
        ("a && b\n", "'&&' is not understood"),
        ("echo $ x\n", "is not understood"),
        ("search --label x\n", "this search is not understood"),
        ("search --fs-uuid --set=root other\n", "no file system 'other'"),
        ("search --wrong --set=root other\n", "this search is not understood"),
        ("linux (hd1,gpt2)/kernel\n", "no file system that can be read is known as 'hd1,gpt2'"),
        ("linux /absent\n", "there is no file /absent"),
        ("linux kernel\n", "is no path on a file system"),
        ("linux /kernel a\udcffb\n", "line 2: a command line that is no UTF-8"),
        ("linux /kernel x*\n", "the pattern 'x*'"),
        ("initrd /initrd\n", "an initrd comes before the kernel"),
        ("boot\n", "no kernel is there to boot"),
        ("linux /kernel\n", "starts no kernel"),
        ("configfile (hd0,gpt1)/efi/grub.cfg\n", "does not come to an end"),
        ("function f { f; }\nf\n", "does not come to an end"),
        ("while true; do true; done\n", "does not come to an end"),
        ("x=xxxxxxxxxxxxxxxx\nwhile true; do x=$x$x; done\n", "a word of more than"),
        ("return\n", "nothing to return from"),
        ("[ a -nt b ]\n", "the condition '-nt'"),
        ("[ a\n", "no closing bracket"),
        ("fwsetup\n", "'fwsetup' is not followed"),
        ("menuentry x { linux /kernel; }\n", "waits for a person"),
        ("timeout=-1\nmenuentry x { linux /kernel; }\n", "waits for a person"),
        ("timeout=0\nmenuentry x { true; }\n", "'x' starts no kernel"),
        ("timeout=0\nsuperusers=me\nmenuentry x { linux /kernel; }\n", "asks for a password"),
        ("if " * 200, "is not understood"),
        (
            f"function f {{ {'if true; then ' * 40} f; {'fi; ' * 40} }}\nf\n",
            "more than 100 statements in each other",
        ),
        ("x='" + "x " * 8000 + "'\necho" + " $x" * 4000, "a command of more than"),
        ("x='" + "x" * 8000 + "'\necho" + ' "$x"' * 4000, "a command of more than"),
        ("echo " + "x" * (1 << 20), "at most 1048576 are read"),
        ("\n", "starts no kernel"),
    ],
)
def test_what_is_not_followed_is_named(text: str, problem: str) -> None:
    with pytest.raises(MalformedError) as caught:
        boot(SEARCH + text if not text.startswith(("menuentry x\n", "linux '", "fi")) else text)
    assert problem in caught.value.message


PIECES = st.sampled_from(
    [
        *("if", "then", "fi", "else", "while", "do", "done", "for", "in", "function", "{", "}", ";", "\n"),
        *(
            "[",
            "]",
            "-o",
            "(",
            ")",
            "!",
            "=",
            "$x",
            "${@}",
            '"',
            "'",
            "\\",
            "$",
            "x=$x$x",
            "menuentry",
            "boot",
        ),
        *("linux /kernel", "source", "configfile", "$prefix/grub.cfg", "set", "search", "load_env", SEARCH),
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map(" ".join)))
def test_any_text_is_followed_or_named(text: str) -> None:
    try:
        boot(text, {"grubenv": text})
    except MalformedError as error:
        assert error.message.startswith("GRUB's configuration: ")
