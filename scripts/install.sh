#!/bin/sh
# Makes .venv and installs dualselect into it, editable, with its development tools.
# PYTHON=... names another interpreter.
set -eu
cd "$(dirname "$0")/.."
venv=.venv

fail() {
    echo "error: $1" >&2
    exit 1
}

if [ ! -x "$venv/bin/python" ]; then
    python=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed, and '${PYTHON:-python3}' is not: install it, or name one with 'make PYTHON=/path/to/python venv'"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        fail "'$python -m venv' failed: install Python's venv module (Debian and Ubuntu: apt install python3-venv)"
    fi
fi

set -- --editable '.[dev]'
if nvidia-smi --list-gpus >/dev/null 2>&1; then
    echo "NVIDIA GPU found: installing torch's CUDA build"
else
    echo "No NVIDIA GPU found: installing torch's CPU build where one is offered"
    set -- --constraint constraints/cpu.txt "$@"
    index=$("$venv/bin/python" scripts/torch_index.py) || index=
    [ -z "$index" ] || set -- "$index" "$@"
fi
"$venv/bin/python" -m pip install --disable-pip-version-check "$@"
touch "$venv/.installed"
