"""Where things live: the repository, the outputs, the cache."""

import os
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def output_root():
    """$OUTPUT (relative to the caller's folder), else <repository>/output."""
    return Path(os.environ["OUTPUT"]).absolute() if os.environ.get("OUTPUT") else REPO / "output"


def cache_root():
    """$CILMP_CACHE, else <output>/.cache: few-shot lists, representations, features, the drawn demo."""
    return Path(os.environ["CILMP_CACHE"]).absolute() if os.environ.get("CILMP_CACHE") else output_root() / ".cache"


def slug(name):
    """A file-safe form of any name: all but letters, digits, '.' and '-' become '-'."""
    return re.sub(r"[^A-Za-z0-9.\-]+", "-", str(name)).strip("-")
