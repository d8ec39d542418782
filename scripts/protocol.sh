#!/usr/bin/env bash
# What all protocol scripts share: set up, then `cilmp run` from the caller's folder.
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup.sh"
exec "$repo/.venv/bin/python" -m cilmp run "$@"
