"""What runs: version and commit."""

import subprocess
from functools import lru_cache

from .paths import CHECKOUT, REPO


def number():
    """The version of the checkout that runs (another may be installed), else the installed one."""
    import importlib.metadata as metadata

    if CHECKOUT:
        lines = (REPO / "pyproject.toml").read_text(encoding="utf-8").splitlines()
        return next((x.split('"')[1] for x in lines if x.startswith("version")), "unknown")
    return metadata.version("cilmp")


@lru_cache(maxsize=1)
def commit():
    """The repository's commit, with -dirty; None outside a checkout."""
    if not (REPO / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(REPO), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
