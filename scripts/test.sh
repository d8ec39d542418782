#!/usr/bin/env bash
# Run the tests, all but the slow ones (--slow: those too), two or more at a time. Further words go to pytest.
# --with slurm installs SLURM (Debian's packages, as root) and then fails where its tests would be skipped.
#   bash scripts/test.sh [--slow] [--with slurm] [pytest arguments]
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup.sh"
cd "$repo"
chosen=(-m "not slow")
while true; do
  case "${1:-}" in
    --slow) chosen=(--slow); shift ;;
    --with)
      [ "${2:-}" = slurm ] || { echo "error: --with ${2:-}: choose slurm" >&2; exit 2; }
      command -v slurmctld >/dev/null || { apt-get update -qq && apt-get install -y -qq munge slurm-wlm >/dev/null; }
      export CILMP_TEST_WITH="${CILMP_TEST_WITH:-} slurm"
      shift 2 ;;
    *) break ;;
  esac
done
cores="$(.venv/bin/python -c 'import os; print(min(8, max(2, os.cpu_count() or 1)))')"
echo "running the tests ${chosen[*]:+(${chosen[*]})}, $cores at a time"
exec .venv/bin/python -m pytest -n "$cores" --dist worksteal "${chosen[@]}" "$@"
