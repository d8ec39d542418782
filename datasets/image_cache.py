"""Decoded images in one memory-mapped file, shared by all runs on a machine (DATALOADER.CACHE_IMAGES True).

Images are stored as 8-bit RGB with the shorter side, or with INPUT.RESIZE_MODE squash both, at the input size (larger
ones shrunk by the test transform's own resize, smaller ones as they are). So evaluation is bit-equal with and
without the cache; training crops are taken from the shrunk image, which is the price.

    <cache>/images/<size>[-squash]-<interpolation>-<version>/<root>/<shard>.bin    pixels, one image after the other
    .../<shard>.json                                            {file: [bytes, mtime_ns, sha256, offset, height, width]}

An entry is valid while the file has that length and time of change, or else that SHA-256. A run adds one shard
with what is missing; the index is written last, so a killed run leaves nothing that is read.
"""

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from dassl.data.datasets import Datum
from dassl.utils import read_image
from dassl.utils.arrays import is_array_image
from dassl.utils.errors import UserError
from dassl.utils.images import VERSION, image_hash
from dassl.utils.io import atomic_path, sha256_file, write_json
from dassl.utils.paths import cache_root, slug


class CachedDatum(Datum):
    """A Datum whose pixels come out of a shard."""

    def __init__(self, item, shard, offset, shape):
        super().__init__(item.impath, item.label, item.domain, item.classname)
        self._place = str(shard), offset, shape

    def image(self):
        """The PIL image, RGB."""
        from PIL import Image

        shard, offset, (height, width) = self._place
        pixels = _map(shard)[offset:offset + height * width * 3]
        return Image.fromarray(np.array(pixels).reshape(height, width, 3))

    def content(self):
        """What its pixels are made of: the file, and the size it was shrunk to."""
        return f"{Path(self._place[0]).parent.parent.name} {image_hash(self.impath)}"


@lru_cache(maxsize=64)
def _map(shard):
    return np.memmap(shard, np.uint8, "r")


def cached(items, root, size, interpolation, squash=False, workers=None, progress=True):
    """The items as CachedDatum, decoding what the cache does not have; images that can't be read or that lie in an
    array anyway stay as they are.

    Args:
        items: Datum list.
        root: folder of the data set (names the cache).
        size: shorter side in pixels.
        interpolation: bilinear, bicubic or nearest, as INPUT.INTERPOLATION.
        squash: both sides to `size`.
    """
    name = f"{slug(Path(root).name)}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"
    shape = f"{size}-squash" if squash else size
    folder = cache_root() / "images" / f"{shape}-{interpolation}-{VERSION}" / name
    index = read_index(folder)
    todo = [item.impath for item in items if not (is_array_image(item.impath) or _valid(item.impath, index))]
    if todo:
        sides = [size, size] if squash else [size]
        index |= _add(folder, list(dict.fromkeys(todo)), sides, interpolation, workers, progress)
    return [CachedDatum(item, *index[item.impath][1]) if item.impath in index else item for item in items]


def read_index(folder):
    """{file: ((bytes, mtime_ns, sha256), (shard, offset, (height, width)))} of every whole shard."""
    index = {}
    for path in sorted(folder.glob("*.json")):
        for file, (length, changed, digest, *place) in json.loads(path.read_text(encoding="utf-8")).items():
            offset, height, width = place
            index[file] = (length, changed, digest), (path.with_suffix(".bin"), offset, (height, width))
    return index


def _valid(file, index):
    """Whether the index speaks of the file as it is now; an entry that does not is dropped from it."""
    if file not in index:
        return False
    length, changed, digest = index[file][0]
    try:
        state = os.stat(file)
    except OSError:
        state = None
    if state and (state.st_size, state.st_mtime_ns) == (length, changed):
        return True
    if state and state.st_size == length and sha256_file(file) == digest:
        return True
    del index[file]
    return False


def _add(folder, files, sides, interpolation, workers, progress):
    """Decode files into a new shard; returns its index."""
    from tqdm import tqdm

    shard, entries = folder / f"{os.getpid()}-{len(list(folder.glob('*.json')))}.bin", {}
    with atomic_path(shard) as temporary, open(temporary, "wb") as out:
        for file, decoded in tqdm(_decoded(files, sides, interpolation, workers), total=len(files), unit="img",
                                  desc="decoding into the cache", disable=not progress or None):
            if decoded is None:
                continue
            key, shape, pixels = decoded
            entries[file] = [*key, out.tell(), *shape]
            out.write(pixels)
        if not entries:
            out.write(b"\0")
    write_json(entries, shard.with_suffix(".json"), indent=None)
    index = read_index(folder)
    return {file: index[file] for file in entries}


def _decoded(files, sides, interpolation, workers):
    step = partial(decode, sides=sides, interpolation=interpolation)
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(files) < 64:
        yield from zip(files, map(step, files))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from zip(files, pool.map(step, files, chunksize=32))


def decode(file, sides, interpolation):
    """((bytes, mtime_ns, sha256), (height, width), pixels) of one image; None if it can't be read.

    sides: what larger images are resized to, [shorter] or [height, width].
    """
    from torchvision.transforms.v2 import functional as F

    from dassl.data.transforms import INTERPOLATION_MODES

    try:
        image = read_image(file)
    except UserError:
        return None  # the loader names it, or skips it, by DATASET.ON_BAD_IMAGE
    if min(image.size) > sides[0]:
        image = F.resize(image, sides, interpolation=INTERPOLATION_MODES[interpolation])
    state = os.stat(file)
    return (state.st_size, state.st_mtime_ns, sha256_file(file)), image.size[::-1], image.tobytes()
