"""How a tree of images is laid out: which folder level is the part, which the class.

Read are <class>/..., <part>/<class>/... and <class>/<part>/..., each perhaps inside wrapper folders, as archives
unpack: chest/train/<class>. What fits none of them is an error that names files, never a guess.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath

from cilmp.datasets.groups import listed
from cilmp.datasets.prepare.files import by_suffix
from dassl.utils.errors import UserError
from dassl.utils.names import plain

_WORDS = {"train": "train|training|trn", "val": "val|valid|validation|validate|dev", "test": "test|testing|tst"}
_PART = {part: re.compile(rf"({words}) ?(set|data|dataset|images?|imgs?|split|folder)?") for part, words in
         _WORDS.items()}


@cache
def part_of(word):
    """'train', 'val' or 'test' for a word that says so (Training_Set, VALID, test-data), else ''."""
    return next((part for part, pattern in _PART.items() if pattern.fullmatch(plain(word))), "")


@dataclass(frozen=True)
class Layout:
    """What each image is; `wrappers` are folders that all images lie in and that mean nothing."""

    parts: list  # "train", "val", "test" or "" for each image
    classes: list  # folder name of the class for each image
    wrappers: tuple
    class_level: int  # which folder below the raw one is the class
    part_level: int | None


def read_layout(images):
    """The Layout of relative paths; UserError says which files don't fit."""
    ways = [PurePath(im).parts[:-1] for im in images]
    level = _part_level(images, ways)
    if level is None:
        return _by_class(images, ways, [""] * len(ways), 0, None)
    first, last = level
    parts = [part_of(way[first]) for way in ways]
    above = {way[:first] for way in ways}
    if len(above) == 1:
        return _by_class(images, [way[last + 1:] for way in ways], parts, last + 1, first, next(iter(above)))
    inside = [im for im, way in zip(images, ways) if len(way) > last + 1]
    if inside:
        tops = sorted({"/".join(a) or "." for a in above})
        raise UserError(f"parts lie below {len(tops)} folders ({', '.join(tops[:3])}) and hold folders, e.g. "
                        f"{inside[0]}: which is the class? Give --raw one of them, or a table path,label,split")
    return _by_class(images, [way[:first] for way in ways], parts, 0, first)


def _part_level(images, ways):
    """(first, last) folder level at which every image's folder names a part, None where there is none.

    One folder alone is the class, whatever its name; a part must hold class folders.
    """
    levels = [[i for i, folder in enumerate(way) if part_of(folder)] for way in ways]
    named = [im for im, found, way in zip(images, levels, ways) if found and len(found) < len(way)]
    if not named:
        if ways and all(len(found) == len(way) > 0 for found, way in zip(levels, ways)):
            raise UserError(f"only parts, no class folders; first {images[0]}: expected <class>/<image> in them")
        return None
    level = levels[images.index(named[0])][0]
    outside = [im for im, found in zip(images, levels) if level not in found]
    if outside:
        raise UserError(f"{PurePath(*PurePath(named[0]).parts[:level + 1])} looks like a part, but "
                        f"{len(outside)} of {len(images)} images lie in none: {_some(outside)}; move them into train, "
                        "val or test or out of the folder, or rename it where it is a class")
    bare = [im for im, found, way in zip(images, levels, ways) if len(found) == len(way)]
    if bare:
        raise UserError(f"{len(bare)} images lie in a part without a class folder: {_some(bare)}; an image without a "
                        "label can't be used, move them away")
    torn = [im for im, found, way in zip(images, levels, ways) if len({part_of(way[i]) for i in found}) > 1]
    if torn:
        raise UserError(f"{len(torn)} images lie in two parts: {_some(torn)}")
    return level, max(set.intersection(*map(set, levels)))  # train/train/<class>, as some archives unpack


def _by_class(images, ways, parts, level, part_level, above=()):
    """The Layout where the class is the first folder of each way that not all images share."""
    wrappers = []
    while all(len(way) > 1 for way in ways) and len({way[0] for way in ways}) == 1:
        wrappers.append(ways[0][0])
        ways = [way[1:] for way in ways]
    loose = [im for im, way in zip(images, ways) if not way]
    if loose:
        raise UserError(f"{len(loose)} images lie outside the class folders: {_some(loose)}; expected "
                        "<class>/<image>, perhaps below train, val, test")
    return Layout(parts, [way[0] for way in ways], (*above, *wrappers), level + len(wrappers), part_level)


def _some(files):
    return listed([str(f) for f in files], shown=3)


def need_classes(images, layout):
    """UserError for one class alone, and for two folders whose names differ in case or blanks only."""
    seen = {}
    for name, im in dict(zip(layout.classes, images)).items():
        if (other := seen.setdefault(plain(name), name)) != name:
            raise UserError(f"the class folders {other!r} and {name!r} differ only in case, blanks, '_' or '-' "
                            f"(at {im}); rename one of them")
    if len(seen) < 2:
        beside = [im for im in images if len(PurePath(im).parts) == layout.class_level + 2]
        hint = f"; {len(beside)} images lie directly in it, beside folders: {_some(beside)}" \
            if 0 < len(beside) < len(images) else ""
        raise UserError(f"one class alone, {layout.classes[0]!r} with {len(images)} images; expected two class "
                        f"folders or more{hint}")


def need_full(images, folders, others, layout):
    """UserError for parts and class folders without an image, with what they hold instead."""
    full = {way[:i] for way in {PurePath(im).parts[:-1] for im in images} for i in range(len(way) + 1)}
    empty = [f for f in map(PurePath, folders) if f.parts not in full and f.parts[:-1] in full
             and (_is_class(f.parts, layout) or (len(f.parts) - 1 == layout.part_level and part_of(f.name)))]
    if empty:
        held = [(f, [o for o in others if f in PurePath(o).parents]) for f in empty]
        words = listed([f"{f} ({by_suffix(files) if files else 'nothing'})" for f, files in held])
        raise UserError(f"folders without an image: {words}; a class needs images, and what is no class must not lie "
                        "beside the class folders")


def _is_class(folders, layout):
    """Whether a folder is at the level of the classes, below a part where classes lie below parts."""
    above = layout.part_level is not None and layout.part_level < layout.class_level
    return len(folders) - 1 == layout.class_level and (not above or part_of(folders[layout.part_level]))
