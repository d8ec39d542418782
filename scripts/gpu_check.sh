#!/usr/bin/env bash
# What the owner of a GPU runs first; prints the file to send back:  bash scripts/gpu_check.sh [--small] [--out FILE]
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup.sh"
exec "$repo/.venv/bin/python" -m cilmp.benchmarks.gpu_check "$@"
