#!/bin/sh
# The tests of the gradient engine and of training on the GPU, those that a CPU skips among them.
#   PYTHON=...  interpreter (default: that of .venv)
#   TESTS=...   what pytest runs
set -eu
cd "$(dirname "$0")/../.."
${PYTHON:-.venv/bin/python} -m pytest -q -n 0 ${TESTS:-tests/gradients tests/selection tests/training/test_step.py}
