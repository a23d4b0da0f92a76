#!/bin/sh
# Every check and test. --fast leaves out what boots TDs, and most of the mutations. Other arguments go to pytest.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here"
fast=
if [ "${1:-}" = --fast ]; then
    fast=1
    shift
fi

export TDX_VENV="$here/.venv-dev" TDX_REQUIREMENTS="$here/requirements/dev.txt"
./tdx --version
python=$TDX_VENV/bin/python
unset TDX_VENV TDX_REQUIREMENTS

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step "$python" -m tests.prepare_host
step "$python" -m ruff check .
step "$python" -m ruff format --check .
step "$python" -m mypy
step "$here/.venv-dev/bin/lint-imports"
if [ -n "$fast" ]; then
    step "$python" -m pytest -m "not e2e" --benchmark-disable --mutations 50 "$@"
else
    step "$python" -m pytest --benchmark-disable "$@"
fi
