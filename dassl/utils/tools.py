"""Small helpers under upstream's names."""

import difflib
import os
import random
import warnings

import numpy as np

from .errors import unknown_name
from .images import read_image
from .io import read_json, write_json

__all__ = [
    "check_availability", "check_isfile", "collect_env_info", "count_num_param", "download_url",
    "get_most_similar_str_to_a_from_b", "listdir_nohidden", "mkdir_if_missing", "read_image", "read_json",
    "set_random_seed", "tolist_if_not", "write_json",
]  # fmt: skip


def mkdir_if_missing(path):
    os.makedirs(path, exist_ok=True)


def check_isfile(path):
    found = os.path.isfile(path)
    if not found:
        warnings.warn(f"no file at {path}", stacklevel=2)
    return found


def listdir_nohidden(path, sort=False):
    names = [n for n in os.listdir(path) if not n.startswith(".")]
    return sorted(names) if sort else names


def tolist_if_not(x):
    return x if isinstance(x, list) else [x]


def check_availability(requested, available):
    """Raises UnknownName with the nearest name."""
    if requested not in available:
        raise unknown_name("name", requested, available)


def get_most_similar_str_to_a_from_b(a, b):
    """The entry of b most like a."""
    return max(b, key=lambda name: difflib.SequenceMatcher(None, str(a), str(name)).ratio())


def download_url(url, dst):
    """Fetch a file to dst; a broken transfer leaves nothing behind."""
    import torch

    mkdir_if_missing(os.path.dirname(os.path.abspath(dst)))
    torch.hub.download_url_to_file(url, dst)


def set_random_seed(seed):
    """Seed random, numpy, torch and all CUDA generators, in that order."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def collect_env_info():
    """Versions as text, without running sub-processes."""
    import platform

    import PIL
    import torch

    lines = {
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "CUDA": torch.version.cuda if torch.cuda.is_available() else "not available",
        "Pillow": PIL.__version__,
        "Threads": torch.get_num_threads(),
    }
    return "\n".join(f"{k}: {v}" for k, v in lines.items())


def count_num_param(model=None, params=None):
    """Number of entries of a module's parameters, or of a list of tensors or {"params": tensors} groups."""
    if model is not None:
        return sum(p.numel() for p in model.parameters())
    total = 0
    for entry in params or []:
        group = entry["params"] if isinstance(entry, dict) else entry
        total += sum(p.numel() for p in tolist_if_not(group))
    return total
