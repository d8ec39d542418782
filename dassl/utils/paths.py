"""Where things live: the repository, the outputs, the cache."""

import os
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]  # the checkout; of an installed package, where it was installed
CHECKOUT = (REPO / "train.py").is_file()


def home():
    """Where data/ and output/ lie by default: the checkout, or the caller's folder where there is none."""
    return REPO if CHECKOUT else Path.cwd()


def output_root():
    """$OUTPUT (relative to the caller's folder), else output/ in the checkout, or where one stands."""
    return Path(os.environ["OUTPUT"]).absolute() if os.environ.get("OUTPUT") else home() / "output"


def cache_root():
    """$CILMP_CACHE, else `cilmp` in the user's cache folder: $XDG_CACHE_HOME where it is absolute, else ~/.cache.

    What this machine can make again lies here, for all outputs: language models, representations, few-shot lists,
    decoded images, features, the drawn demo. Never under the output, which holds results only.
    """
    if os.environ.get("CILMP_CACHE"):
        return Path(os.environ["CILMP_CACHE"]).absolute()
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (user if user.is_absolute() else Path("~/.cache").expanduser()) / "cilmp"


def slug(name):
    """A file-safe form of any name: all but letters, digits, '.' and '-' become '-'."""
    return re.sub(r"[^A-Za-z0-9.\-]+", "-", str(name)).strip("-")
