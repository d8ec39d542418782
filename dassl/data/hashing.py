"""Hashes that say whether two runs saw the same images in the same roles."""

import os
from pathlib import PurePath

from dassl.utils.io import sha256_of


def split_hashes(dataset):
    """{"split_sha256", "train_sha256", "test_sha256"} over (relative POSIX path, label, name) of the lists as used."""
    root = getattr(dataset, "root_dir", None) or _common_root(dataset)
    lists = {part: _rows(items, root) for part, items in _lists(dataset).items()}
    return {
        "split_sha256": sha256_of(lists),
        "train_sha256": sha256_of(lists["train"]),
        "test_sha256": sha256_of(lists["test"]),
    }


def _lists(dataset):
    return {"train": dataset.train_x or [], "val": dataset.val or [], "test": dataset.test or []}


def _common_root(dataset):
    folders = {os.path.dirname(os.path.abspath(i.impath)) for items in _lists(dataset).values() for i in items}
    return os.path.commonpath(folders) if folders else ""


def _rows(items, root):
    return [[PurePath(os.path.relpath(i.impath, root)).as_posix(), int(i.label), i.classname] for i in items]
