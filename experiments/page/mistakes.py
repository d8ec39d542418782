"""A run's worst mistakes: wrong answers of the highest probability, and their images where these may be shown.

An image is embedded only if its set's licence is known to allow it, and if it lies in the folder where this machine
keeps that very set: results that come from elsewhere name any path they like.
"""

import base64
import io
import os
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from cilmp.experiments.predictions import file_of
from dassl.utils.errors import UserError
from dassl.utils.paths import cache_root

from .runs import Names

SHOWN = 8  # mistakes of a run
SIDE = 96  # pixels of an image
MOST = 400  # images of a page: about 2 MB
ALLOWED = ("CC0", "CC BY 4.0", "CC BY 3.0", "CC BY-SA 4.0", "CC BY-SA 3.0", "public domain")


class Worst:
    """Collects the mistakes of runs; `content` is what the page needs of their images."""

    def __init__(self):
        self.names, self.images, self._sets = Names(), {}, {}

    def of(self, record):
        """[[place of the image's name, true, answer, its probability in 1/1000] ...], the surest first."""
        found = read(record)
        if found is None:
            return []
        paths, labels, predictions, probabilities = found
        sure = probabilities[np.arange(len(labels)), predictions]
        wrong = np.flatnonzero(predictions != labels)
        chosen = wrong[np.lexsort((wrong, -sure[wrong]))][:SHOWN]
        return [[self._place(record, paths[i] if len(paths) else f"image {i}"), int(labels[i]), int(predictions[i]),
                 round(1000 * float(sure[i]))] for i in chosen]  # fmt: skip

    def _place(self, record, path):
        dataset = record["dataset"]
        place = self.names.place(_short(path), (dataset, path))
        if dataset not in self._sets:
            self._sets[dataset] = allowed(dataset)
        folders = self._sets[dataset][1]
        if folders and place not in self.images and len(self.images) < MOST:
            self.images[place] = picture(path, folders)
        return place

    def content(self):
        """{names, pictures {place: base64 JPEG}, licences {set: words}}."""
        return {"names": self.names.values, "pictures": {k: v for k, v in self.images.items() if v},
                "licences": {name: words for name, (words, _) in self._sets.items()}}  # fmt: skip


def read(record):
    """(paths, labels (n,), predictions (n,), probabilities (n, C)) of a run; None where they can't be read."""
    if "folder" not in record:
        return None
    try:
        with np.load(file_of(record), allow_pickle=False) as arrays:
            paths, labels, predictions, probabilities = (arrays[k] for k in ("paths", "labels", "predictions",
                                                                             "probabilities"))  # fmt: skip
        labels, predictions = labels.astype(int), predictions.astype(int)
        shape = (len(labels), probabilities.shape[1])
        fit = probabilities.shape == shape and predictions.shape == labels.shape and len(paths) in (0, len(labels))
        inside = all(((a >= 0) & (a < shape[1])).all() for a in (labels, predictions))
        return ([str(p) for p in paths], labels, predictions, probabilities) if fit and inside else None
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None  # the statistics say so, and why


def _short(path):
    """The last folder and the name: a class and a file, as most sets have them."""
    return "/".join(Path(path).parts[-2:])


def allowed(dataset):
    """(words on the licence, folders its images may lie in): no folders where images must not be shown."""
    from cilmp import datasets
    from cilmp.datasets import phantom

    if dataset == datasets.locate.PHANTOM:  # a report draws nothing anew
        folder = cache_root() / getattr(phantom, "FOLDER", "phantom-v1")
        return "Drawn images of this toolbox, not photographs.", (str(folder),)
    try:
        info = datasets.info(dataset)
        if not info.licence:
            return "Images are not shown: no licence of this data set is known.", ()
        if info.licence not in ALLOWED:
            return f"Images are not shown: the set's licence ({info.licence}) is not known to allow it.", ()
        folders = datasets.locate.find_split(dataset)[1][:3]  # the last is the folder of all sets
        return f"Images: {', '.join(filter(None, (dataset, info.licence, info.home)))}.", tuple(map(str, folders))
    except (UserError, OSError):
        return "Images are not shown: this data set can't be read on this machine.", ()


@cache
def picture(path, folders):
    """A small JPEG of an image file as base64; "" where it is not there, or not of the set's folders."""
    from dassl.utils import read_image

    path = Path(os.path.abspath(path))  # "..", but not links: a prepared set is made of them
    if not any(path.is_relative_to(os.path.abspath(folder)) for folder in folders):
        return ""
    try:
        image = read_image(str(path)).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
    except (UserError, OSError, ValueError):
        return ""
    return base64.b64encode(buffer.getvalue()).decode()
