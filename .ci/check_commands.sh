#!/usr/bin/env bash
# Build the wheel, install it next to the dependencies of an environment with all extras, and run every documented command.
# Unless documents are given, each adapter is checked first, through the package of its tool.
#   PYTHON=.venv/bin/python bash .ci/check_commands.sh [DOCUMENT ...]
set -euo pipefail
cd "$(dirname "$0")/.."

python="$(command -v "${PYTHON:-python3}")"
repository="$PWD"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$work" .
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/installed" "$work"/*.whl
cd "$work"
export PATH="$(dirname "$python"):$PATH" PYTHONPATH="$work/installed" QT_QPA_PLATFORM=offscreen
if [ $# = 0 ]; then
    "$python" -P "$repository/.ci/check_adapters.py"
fi
"$python" -P "$repository/.ci/check_commands.py" "$@"
