#!/usr/bin/env bash
# What all scripts/<method>/<protocol>.sh share: set up, then run the driver from the caller's folder.
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup.sh"
exec "$repo/.venv/bin/python" "$repo/scripts/driver.py" "$@"
