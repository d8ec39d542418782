#!/usr/bin/env bash
# Run the tests, all but the slow ones (--slow: those too), two or more at a time. Further words go to pytest.
# --with slurm or chromium installs that (Debian's packages, as root; chromium: selenium and axe-core from PyPI too) and
# then fails where its tests would be skipped.
#   bash scripts/test.sh [--slow] [--with slurm] [--with chromium] [pytest arguments]
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup.sh"
cd "$repo"
chosen=(-m "not slow")
debian() { # a program, and the packages that have it
  command -v "$1" >/dev/null || { apt-get update -qq && apt-get install -y -qq "${@:2}" >/dev/null; }
}
while true; do
  case "${1:-}" in
    --slow) chosen=(--slow); shift ;;
    --with)
      case "${2:-}" in
        slurm) debian slurmctld munge slurm-wlm ;;
        chromium)
          debian chromedriver chromium chromium-driver
          # of the second only axe.min.js is read; what it needs for itself (playwright) is not installed
          .venv/bin/python -m pip install --quiet --disable-pip-version-check "selenium>=4.20"
          .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps axe-playwright-python==0.1.8
          # gradio asks for a pillow below 13: with what it lacks by name, the environment's stays
          .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gradio==6.31.0 \
            gradio_client==2.7.2 hf_gradio==0.4.1 brotli fastapi starlette uvicorn groovy httpx "httpcore<2" orjson \
            pydub python-multipart pytz "safehttpx<0.2" "semantic-version<3" "tomlkit<0.15" opentelemetry-api ;;
        *) echo "error: --with ${2:-}: choose slurm or chromium" >&2; exit 2 ;;
      esac
      export CILMP_TEST_WITH="${CILMP_TEST_WITH:-} $2"
      shift 2 ;;
    *) break ;;
  esac
done
cores="$(.venv/bin/python -c 'import os; print(min(8, max(2, os.cpu_count() or 1)))')"
echo "running the tests ${chosen[*]:+(${chosen[*]})}, $cores at a time"
exec .venv/bin/python -m pytest -n "$cores" --dist worksteal "${chosen[@]}" "$@"
