"""MedMNIST's npz files: where they lie, what is in them, their own three parts as lists.

An image is called `<file>.npz::<part>/<index>` and is read as any other (dassl.utils.arrays). A file is judged
whole when its lists are made, so that reader, preparation and check say the same of it.
"""

from pathlib import Path

import numpy as np

from dassl.utils.arrays import array, image_shape, is_array_image  # noqa: F401 - the room's other files ask here
from dassl.utils.errors import UserError

PARTS = ("train", "val", "test")
SIZES = (28, 64, 128, 224)


def labels(path, part):
    """Labels (N,) int of a part. UserError for several labels an image and for what is no whole number from 0."""
    found = np.asarray(array(str(path), f"{part}_labels"))
    if found.ndim > 1 and found.shape[1:] != (1,):
        raise UserError(f"{path}: {found.shape[1]} labels an image; multi-label sets are not supported")
    found = found.reshape(-1)
    if found.dtype.kind not in "iufb":
        raise UserError(f"{path}: {part}_labels are {found.dtype}; labels are whole numbers from 0")
    bad = np.flatnonzero(~((found >= 0) & (found < 2**31) & (found % 1 == 0)))  # of NaN every comparison is false
    if len(bad):
        raise UserError(f"{path}: label {found[bad[0]]} at {part}/{bad[0]} ({len(bad)} such); "
                        "labels are whole numbers from 0")
    return found.astype(int)


def find(flag, folders, size=224):
    """The npz of a flag in the first folder that has one: the smallest of at least `size` pixels, else the largest."""
    for folder in folders:
        there = [s for s in SIZES if file_name(flag, s, folder).is_file()]
        if there:
            return file_name(flag, next((s for s in there if s >= size), there[-1]), folder)
    return None


def file_name(flag, size, folder):
    return Path(folder, f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz")


def split_lists(path, classnames):
    """{part: [(file.npz::part/index, label, class name)]} of an npz, its own three parts; UserError for arrays that
    would not be read as they look, labels that fit no image or no class, a class without training image."""
    path, lists = Path(path), {}
    for part in PARTS:
        found, (images, _) = labels(path, part), image_shape(path, part)
        if len(found) != images:
            raise UserError(f"{path}: {images} {part}_images, but {len(found)} {part}_labels")
        if part != "val" and not images:
            raise UserError(f"{path}: no {part}_images")
        if len(found) and found.max() >= len(classnames):
            raise UserError(f"{path}: label {found.max()} in {part}, but the set has {len(classnames)} classes")
        lists[part] = [(f"{path.name}::{part}/{i}", int(label), classnames[label]) for i, label in enumerate(found)]
    untrained = [name for i, name in enumerate(classnames) if i not in {label for _, label, _ in lists["train"]}]
    if untrained:
        raise UserError(f"{path}: class {untrained[0]!r} has no training image")
    return lists


def published(facts, lists):
    """How the number of images in {part: entries} differs from the published one, "" if it does not."""
    differ = [f"{part} {len(lists[part])} (published {wished})" for part, wished in zip(PARTS, facts.parts)
              if len(lists[part]) != wished]
    return f"not MedMNIST's number of images: {', '.join(differ)}" if differ else ""


def folders(root, flag):
    """Where an npz may lie: DATA/<flag>, DATA, DATA/medmnist, the medmnist package's own folder."""
    return [Path(root, flag), Path(root), Path(root, "medmnist"), Path.home() / ".medmnist"]
