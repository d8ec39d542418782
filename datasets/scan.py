"""Opening every image once: does it decode, how large is it, and what does it look like. Remembered in the cache."""

import base64
import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dassl.utils import images
from dassl.utils.arrays import file_of, is_array_image
from dassl.utils.dicom import is_dicom
from dassl.utils.errors import UserError
from dassl.utils.paths import cache_root, slug

THUMB = 64  # pixels a side of the grey thumbnail by which copies are proposed
VERSION = [2, images.VERSION]  # of a line in the journal, and of the pixels it speaks of


@dataclass(frozen=True)
class Seen:
    """One image: `error` is "" if it decodes; `pixels` hashes the decoded RGB."""

    size: tuple = (0, 0)
    mode: str = ""  # as stored: L, RGB, P, CMYK, I;16, DICOM ...
    pixels: str = ""
    thumb: str = ""  # base64 of THUMB x THUMB grey values
    error: str = ""

    def grey(self):
        """The thumbnail, (THUMB, THUMB) uint8."""
        return np.frombuffer(base64.b64decode(self.thumb), np.uint8).reshape(THUMB, THUMB)


def look(path):
    """The Seen of one file; a file that can't be read is told in `error`, never raised."""
    from dassl.utils import read_image

    try:
        image = read_image(str(path))
        mode = stored_mode(path)
    except (UserError, OSError) as error:
        return Seen(error=str(error))
    digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).hexdigest()
    return Seen(image.size, mode, digest, base64.b64encode(grey(image, THUMB)).decode())


def grey(image, side):
    """(side, side) uint8 grey levels of a PIL image."""
    from PIL import Image

    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))


def stored_mode(path):
    """Pillow's mode of the file as it is stored; DICOM is called DICOM, an image of an array NPZ."""
    from PIL import Image

    if is_array_image(path):
        return "NPZ"
    if is_dicom(path):
        return "DICOM"
    with Image.open(path) as image:
        return image.mode


def scan(files, workers=None, label="images", progress=True):
    """{file: Seen} for all files, on all cores, continued where an earlier scan of the same files stopped.

    Results lie under the cache, one line a file, keyed by path, size and time of change: a second call reads
    them. Delete <cache>/scan to look again.
    """
    files = [str(f) for f in files]
    real = {f: os.path.realpath(f) for f in files}  # an image and a link to it are looked at once
    keys = {f: _key(real[f]) for f in files}
    journal = _journal(real.values())
    known = _read_journal(journal)
    found = {f: known[keys[f]] for f in files if keys[f] in known}
    todo = [f for f in files if f not in found]
    if not todo:
        return found
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "a", encoding="utf-8") as out, closing(_looks(todo, workers)) as looks:
        for file, seen in _bar(zip(todo, looks), len(todo), label, progress):
            out.write(json.dumps([VERSION, keys[file], asdict(seen)]) + "\n")
            found[file] = seen
    return found


def _looks(files, workers):
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(files) < 64:
        yield from map(look, files)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(look, files, chunksize=32)


def _bar(rows, total, label, progress):
    from tqdm import tqdm

    return tqdm(rows, total=total, desc=label, unit="img", disable=not progress or None)


def _journal(files):
    """One journal for a folder tree: named by the common folder of the files."""
    folders = {os.path.dirname(f) for f in files}
    folder = os.path.commonpath(folders) if folders else "none"
    name = f"{slug(Path(folder).name)}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}.jsonl"
    return cache_root() / "scan" / name


def _key(file):
    try:
        state = os.stat(file_of(file))
    except OSError:
        return f"{file}|absent"
    return f"{file}|{state.st_size}|{state.st_mtime_ns}"


def _read_journal(path):
    """{key: Seen}; a line cut short by a killed scan is skipped."""
    known = {}
    if path.is_file():
        with open(path, encoding="utf-8") as f:
            for line in f:
                try:
                    version, key, seen = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if version == VERSION:
                    known[key] = Seen(**{**seen, "size": tuple(seen["size"])})
    return known
