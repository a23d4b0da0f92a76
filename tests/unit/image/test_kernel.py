from __future__ import annotations

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.image import kernel

GOOD = "".join(f"CONFIG_{name}={'m' if index % 2 else 'y'}\n" for index, name in enumerate(kernel.REQUIRED))


def test_a_kernel_with_everything_is_accepted() -> None:
    kernel.check("7.3.4", "# comment\n" + GOOD + '# CONFIG_X is not set\nCONFIG_LOCALVERSION=""\n')


@pytest.mark.parametrize("name", kernel.REQUIRED)
@pytest.mark.parametrize("instead", ["", "# CONFIG_{} is not set\n", "CONFIG_{}=n\n", "#CONFIG_{}=y\n"])
def test_a_kernel_without_one_option_is_refused(name: str, instead: str) -> None:
    config = "".join(line for line in GOOD.splitlines(True) if not line.startswith(f"CONFIG_{name}="))
    with pytest.raises(UnavailableError) as caught:
        kernel.check("6.12.0", config + instead.format(name))
    assert "6.12.0" in caught.value.message
    assert f"CONFIG_{name}" in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_all_that_is_missing_is_named() -> None:
    with pytest.raises(UnavailableError) as caught:
        kernel.check("5.10", "")
    for name in kernel.REQUIRED:
        assert name in caught.value.message


def test_options() -> None:
    config = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\n'
    assert kernel.options(config) == {"A": "y", "C": '"x y"'}
