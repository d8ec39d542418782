#!/usr/bin/env bash
# Run the tests (not the slow ones; --slow runs all). Further words go to pytest.
#   bash scripts/test.sh [--slow] [pytest arguments]
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup.sh"
cd "$repo"
exec .venv/bin/python -m pytest "$@"
