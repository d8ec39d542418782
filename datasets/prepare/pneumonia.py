"""PNEUMONIA2 and PNEUMONIA3: the paediatric chest films of Kermany et al., Kaggle or Mendeley tree."""

import re

from cilmp.datasets.prepare.base import Image, Raw, find
from cilmp.datasets.prepare.files import find_images, need_folder
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import MissingFile, UserError

PARTS = {"train": "train", "val": "train", "test": "test"}  # 16 images of val make none: they join train


def pneumonia(raw, wanted):
    """chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/; the outermost tree counts, the copies inside it don't.

    The third class is the word virus in the file name. The group is the person (or IM number of a normal film)
    of the source partition: numbers restart in test; one person may have bacteria and virus films.
    """
    root = find(need_folder(raw), "train", kind="folder").parent
    images = []
    for folder, part in PARTS.items():
        for kind in ("NORMAL", "PNEUMONIA"):
            path = find(root, folder, kind="folder", needed=False)
            path = path and find(path, kind, kind="folder", needed=False)
            images += [_film(file, kind, part, wanted) for file in find_images(path)] if path else []
    if not images:
        raise MissingFile(f"{raw}: no films; expected train/NORMAL, train/PNEUMONIA, test/NORMAL, test/PNEUMONIA")
    return Raw(images, TABLE[wanted].classnames, "source partition + person number (normals: IM number)")


def _film(file, kind, part, wanted):
    if kind == "NORMAL":
        name = "normal"
    elif wanted == "PNEUMONIA2":
        name = "pneumonia"
    else:
        word = re.search(r"bacteria|virus", file.name.lower())
        if not word:
            raise UserError(f"{file}: neither bacteria nor virus in the name")
        name = f"{word[0]} pneumonia"
    return Image(file, name, part, f"{part} {person(file.name)}" if person(file.name) else "")


def person(name):
    """'person12', 'IM-0115' or 'NORMAL2-IM-0117' from a file name, '' where there is none; the word is no part."""
    match = re.match(r"(person\d+)|((?:NORMAL2-)?IM-\d+)|(?:BACTERIA|VIRUS|NORMAL)-(\d+)", name)
    return next((g for g in match.groups() if g), "") if match else ""
