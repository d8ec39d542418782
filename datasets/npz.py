"""Images inside a MedMNIST npz, named `<file>.npz::<part>/<index>`: read from the array, no file is written.

An array stored without compression is memory-mapped inside the zip; a compressed one is read once a process
(read it before workers fork, and they share it).
"""

import re
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from dassl.utils.errors import MissingFile, UserError
from dassl.utils.images import SOURCES

PARTS = ("train", "val", "test")
SIZES = (28, 64, 128, 224)
NAME = re.compile(r"^(?P<file>.+\.npz)::(?P<part>train|val|test)/(?P<index>\d+)$")


def is_array_image(impath):
    return ".npz::" in str(impath)


def read(impath):
    """The PIL image (RGB) of `<file>.npz::<part>/<index>`; grey ones are repeated."""
    from PIL import Image

    match = NAME.match(str(impath))
    if not match:
        raise UserError(f"{impath}: expected <file>.npz::<train|val|test>/<index>")
    images = array(match["file"], f"{match['part']}_images")
    index = int(match["index"])
    if index >= len(images):
        raise UserError(f"{impath}: the array has {len(images)} images")
    return Image.fromarray(np.ascontiguousarray(images[index])).convert("RGB")


SOURCES.append((is_array_image, read))


@lru_cache(maxsize=8)
def array(path, key):
    """One array of an npz: (N, S, S) or (N, S, S, 3) uint8 images, or labels; MissingFile, UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{key}.npy")
            if member.compress_type == zipfile.ZIP_STORED:
                return _mapped(path, archive, member)
            with archive.open(member) as f:
                return np.lib.format.read_array(f, allow_pickle=False)
    except FileNotFoundError:
        raise MissingFile(f"no such file: {path}") from None
    except KeyError:
        raise UserError(f"{path}: no array {key!r}; is this a MedMNIST file?") from None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged or no npz ({error})") from None


def _mapped(path, archive, member):
    """The member as a read-only memory map: its bytes start after the local header of the zip."""
    with open(path, "rb") as f:
        f.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", f.read(4))
        start = member.header_offset + 30 + name_length + extra_length
    with archive.open(member) as f:
        version = np.lib.format.read_magic(f)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(f)
        if dtype.hasobject:
            raise ValueError("object array")
        return np.memmap(path, dtype, "r", start + f.tell(), shape, "F" if fortran else "C")


def labels(path, part):
    """Labels (N,) int of a part; a table of several labels an image is refused."""
    found = np.asarray(array(str(path), f"{part}_labels"))
    if found.ndim > 1 and found.shape[1] != 1:
        raise UserError(f"{path}: {found.shape[1]} labels an image; multi-label sets are not supported")
    return found.reshape(-1).astype(int)


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
    """{part: [(file.npz::part/index, label, class name)]} of an npz, its own three parts."""
    path, lists = Path(path), {}
    for part in PARTS:
        found = labels(path, part)
        if len(found) and found.max() >= len(classnames):
            raise UserError(f"{path}: label {found.max()} in {part}, but the set has {len(classnames)} classes")
        lists[part] = [(f"{path.name}::{part}/{i}", int(label), classnames[label]) for i, label in enumerate(found)]
    return lists


def folders(root, flag):
    """Where an npz may lie: DATA/<flag>, DATA, DATA/medmnist, the medmnist package's own folder."""
    return [Path(root, flag), Path(root), Path(root, "medmnist"), Path.home() / ".medmnist"]
