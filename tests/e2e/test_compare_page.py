"""The page of `tdx compare --html` in a browser: headless Chromium of the distribution, in a private root."""

from __future__ import annotations

import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tdxstack.cli.compare_page import render_page
from tdxstack.cli.edge import surroundings
from tdxstack.measurement.comparison.compare import compare
from tdxstack.toolbox.apt import extract
from tdxstack.workflows.workshop import Workshop
from tests.unit.measurement.comparison import logs
from tests.unit.measurement.comparison.logs import GIB, PLAIN, side

pytestmark = pytest.mark.e2e

SECONDS = 120
WHITE, DARK = bytes((255, 255, 255)), bytes((0x0D, 0x11, 0x17))
SECOND = (logs.hob(4 * GIB), *PLAIN[1:], logs.action(b"<b>extra</b>"))
PAGE = render_page(compare(side("first", PLAIN), side("second", SECOND)))


# Its helper processes are started from /proc/self/exe, so it needs a root of its own and not only its loader.
ENTER = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'


@dataclass(frozen=True)
class Browser:
    """Chromium's headless shell, unpacked at `root`."""

    root: Path

    def run(self, *arguments: str) -> str:
        """Open the page with `arguments`, and return what the browser printed."""
        argv = [
            *("unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"),
            *("sh", "-c", ENTER, str(self.root)),
            "/usr/lib/chromium/chromium-headless-shell",
            *("--no-sandbox", "--disable-gpu", "--no-zygote"),
            *arguments,
            "file:///page.html",
        ]
        environment = {"HOME": "/tmp", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(prefix="tdx-browser-") as name:
        apt = Workshop(surroundings()).apt(lambda archive: archive.stable)
        root = extract(apt.fetch(("chromium-headless-shell", "fonts-dejavu-core")), Path(name) / "root")
        for directory in ("dev", "proc", "tmp"):
            (root / directory).mkdir()
        (root / "page.html").write_text(PAGE)
        yield Browser(root)


def test_the_browser_reads_what_was_written(browser: Browser) -> None:
    document = browser.run("--dump-dom")
    assert "2048 MiB and 4096 MiB" in document
    assert "&lt;b&gt;extra&lt;/b&gt;" in document
    assert document.count("<tr") == PAGE.count("<tr")


@pytest.mark.parametrize(("scheme", "paper"), [("1", WHITE), ("0", DARK)], ids=["light", "dark"])
def test_the_page_is_painted_in_the_scheme_of_the_reader(browser: Browser, scheme: str, paper: bytes) -> None:
    picture = browser.root / "page.png"
    preferred = f"--blink-settings=preferredColorScheme={scheme}"
    browser.run(preferred, "--window-size=1300,1600", "--screenshot=/page.png")
    assert first_pixel(picture.read_bytes()) == paper
    assert picture.stat().st_size > 50_000  # a page without text has a tenth of it


def first_pixel(png: bytes) -> bytes:
    """Red, green and blue of the upper left corner: no filter changes the first pixel of the first row."""
    data, at = b"", 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += 12 + size
    return zlib.decompress(data)[1:4]


def test_the_page_can_be_printed(browser: Browser) -> None:
    browser.run("--print-to-pdf=/page.pdf")
    printed = (browser.root / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 2
