#!/usr/bin/env bash
# Build the wheel, install it into a clean environment, and use it outside the source tree.
#   bash .ci/check_wheel.sh                      with the newest dependencies
#   bash .ci/check_wheel.sh -c .ci/lowest.txt    with the lowest supported ones (Python 3.10 to 3.12)
# Arguments go to pip. PYTHON names the interpreter, WHEEL_VENV an environment with the wheel, so that none is built.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
venv="${WHEEL_VENV:-$work/venv}"
if [ -z "${WHEEL_VENV:-}" ]; then
    "$python" -m venv "$venv"
    "$venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" .
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile "$@" "$work"/*.whl
fi

cp .ci/check_wheel.py "$work/"
cd "$work"
PATH="$venv/bin:$PATH" PYTHONPATH="" "$venv/bin/python" -P check_wheel.py
