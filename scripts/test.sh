#!/usr/bin/env bash
# Run the tests, all but the slow ones (--slow: those too). Further words go to pytest.
#   bash scripts/test.sh [--slow] [pytest arguments]
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup.sh"
cd "$repo"
chosen=(-m "not slow")
if [ "${1:-}" = "--slow" ]; then
  chosen=()
  shift
fi
echo "running the tests ${chosen[*]:+(${chosen[*]}; all: bash scripts/test.sh --slow)}"
exec .venv/bin/python -m pytest ${chosen[@]+"${chosen[@]}"} "$@"
