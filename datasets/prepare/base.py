"""What every preparation uses: the images of a raw folder, its tables, and the list a preparation returns."""

import csv
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from dassl.utils.errors import MissingFile, UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom")


@dataclass(frozen=True)
class Image:
    """One labelled image of the raw data."""

    source: Path
    classname: str
    part: str = ""  # official partition, "" where there is none
    group: str = ""  # patient, lesion ...; "" where nothing is known
    target: str = ""  # path below images/; "" = as below the raw folder


@dataclass
class Raw:
    """What a preparation found: images, class names in label order, and what to tell the user."""

    images: list
    classnames: tuple
    key: str = ""  # which id made the groups, in words
    ratios: tuple = (0.7, 0.1, 0.2)
    duplicates: bool = False  # near duplicates are to be kept together
    remarks: list = field(default_factory=list)

    def with_groups(self, groups):
        """The same with the group of each image replaced."""
        return replace(self, images=[replace(im, group=g) for im, g in zip(self.images, groups)])


def find_images(folder, drop=None):
    """Sorted image files under a folder (links followed); hidden files, __MACOSX and names matching `drop` are not."""
    found = []
    for top, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        found += [Path(top, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")
                  and not (drop and re.search(drop, f))]
    return sorted(found)


def need_folder(raw):
    raw = Path(raw).expanduser().absolute()
    if not raw.is_dir():
        raise MissingFile(f"no such folder: {raw} (--raw is the folder with the unpacked download)")
    return raw


def find(raw, *names, kind="any", needed=True):
    """The outermost file or folder under `raw` with one of these names (any case); an absent one is an error."""
    wanted = {n.lower() for n in names}
    for top, folders, files in os.walk(raw, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        here = (folders if kind != "file" else []) + (sorted(files) if kind != "folder" else [])
        hit = next((n for n in here if n.lower() in wanted), None)
        if hit:
            return Path(top, hit)
        if kind != "file" and Path(top).name.lower() in wanted and Path(top) == Path(raw):
            return Path(top)
    if needed:
        raise MissingFile(f"{raw}: found no {' or '.join(names)}; is --raw the folder with the unpacked download?")
    return None


def read_table(path, delimiter=None):
    """Rows of a csv as dicts; byte-order mark, blanks around headers and values go; , ; and tab are told apart."""
    with open(path, encoding="utf-8-sig", newline="", errors="replace") as f:
        text = f.read()
    head = text.split("\n", 1)[0]
    delimiter = delimiter or max(",;\t", key=head.count)
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    return [{(k or "").strip(): (v or "").strip() if not isinstance(v, list) else v for k, v in row.items()}
            for row in rows]


def column(row, name, path):
    """A value of a row by column name, any case; a missing column is an error that lists the columns there are."""
    for key, value in row.items():
        if key.lower() == name.lower():
            return value
    raise UserError(f"{path}: no column {name!r}; there are: {', '.join(row)}")


def by_stem(files):
    """{file name without suffix, lower case: path}; two files with one stem are an error."""
    index = {}
    for file in files:
        if index.setdefault(file.stem.lower(), file) != file:
            raise UserError(f"two images are called {file.stem!r}: {index[file.stem.lower()]} and {file}")
    return index


def look_up(index, stem, where):
    if (found := index.get(stem.lower())) is None:
        raise MissingFile(f"{where}: image {stem!r} is not among the {len(index)} images found")
    return found
