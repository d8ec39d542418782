#!/usr/bin/env bash
# Make .venv in the repository with everything, the command `cilmp` and what the tests need; does nothing when it is
# there and up to date.
#   bash scripts/setup.sh
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$repo/.venv"
stamp="$venv/.requirements"
wanted="$(cat "$repo/requirements.txt" "$repo/pyproject.toml" | cksum)"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    python="$candidate"
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: Python 3.10 or newer is needed and was not found; install it, or set PYTHON=/path/to/python" >&2
  exit 2
fi
echo "setting up $venv with $("$python" --version) (once; several GB with PyTorch's CUDA libraries) ..."
start=$SECONDS
if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then # not there, or half made
  "$python" -m venv --clear "$venv" || {
    echo "error: $python cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 2
  }
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$repo[test]" || {
  echo "error: installing what pyproject.toml asks for failed (see above); run this again when the cause is mended" >&2
  exit 2
}
printf '%s' "$wanted" > "$stamp"
echo "set up in $((SECONDS - start)) s"
