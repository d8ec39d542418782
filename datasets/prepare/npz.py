"""MedMNIST: the arrays as PNG files, for tools that want files. The reader itself reads the npz."""

from pathlib import Path

from cilmp.datasets import npz
from cilmp.datasets.prepare.base import Image, Raw
from dassl.utils.errors import MissingFile


def medmnist(raw, facts):
    """Raw of an npz (a file, or a folder that holds one: the largest): its own parts, one PNG an image.

    File names are those of the medmnist package: <part><index>_<label>.png.
    """
    raw = Path(raw).expanduser().absolute()
    path = raw if raw.suffix == ".npz" else npz.find(facts.flag, [raw, raw / facts.flag], size=10**6)
    if path is None or not path.is_file():
        raise MissingFile(f"{raw}: no {facts.flag}.npz, {facts.flag}_64.npz, {facts.flag}_128.npz or "
                          f"{facts.flag}_224.npz; they are at {facts.home}")
    images, lists = [], npz.split_lists(path, facts.classnames)
    for part, rows in lists.items():
        npz.array(str(path), f"{part}_images")  # before processes fork, so that they share it
        images += [Image(path.parent / file, name, part, target=f"{part}/{part}{i}_{label}.png")
                   for i, (file, label, name) in enumerate(rows)]
    return Raw(images, facts.classnames, remarks=[f"from {path.name}; {_published(path, facts, lists)}"])


def _published(path, facts, lists):
    """How the file compares with what is published: numbers of images, and the MD5 of the medmnist package's table."""
    if differ := npz.published(facts, lists):
        return differ
    try:
        from medmnist import INFO
    except ImportError:
        return "counts as published"
    import pooch

    size = path.stem.removeprefix(facts.flag).lstrip("_")
    same = pooch.file_hash(path, alg="md5") == INFO[facts.flag].get(f"MD5_{size}" if size else "MD5")
    return "counts as published, " + ("MD5 as published" if same else "MD5 differs from the published one")
