"""Images inside an npz, named `<file>.npz::<train|val|test>/<index>`: read out of the array, no file is written.

An array stored without compression is memory-mapped inside the zip; a compressed one is read once a process
(read it before workers fork, and they share it). Nothing pickled is loaded.
"""

import os
import re
import struct
import zipfile
import zlib
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from .errors import MissingFile, UserError

NAME = re.compile(r"(?P<file>.+\.npz)::(?P<part>train|val|test)/(?P<index>\d+)")
REMEDY = "MedMNIST's are uint8 (N, S, S) or (N, S, S, 3)"


def is_array_image(path):
    """Whether a name means an image inside an array; any other name, with '::' or not, is that of a file."""
    return NAME.fullmatch(str(path)) is not None


def file_of(path):
    """The file that an image's name speaks of: the npz of an image inside an array, else the name itself."""
    match = NAME.fullmatch(str(path))
    return match["file"] if match else str(path)


def read_array_image(path):
    """uint8 (S, S) or (S, S, 3) of `<file>.npz::<part>/<index>`."""
    match = NAME.fullmatch(str(path))
    number, _ = image_shape(match["file"], match["part"])
    if int(match["index"]) >= number:
        raise UserError(f"{path}: the array has {number} images")
    image = array(match["file"], f"{match['part']}_images")[int(match["index"])]
    return np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)


def image_shape(path, part):
    """(N, S) of a part's images; UserError for whatever would not be read as it looks (only the header is read)."""
    shape, dtype = header(path, f"{part}_images")
    what = f"{path}: {part}_images are {dtype} {shape}"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]:
        raise UserError(f"{what}, channels first; {REMEDY}: np.moveaxis(x, 1, -1)")
    if len(shape) not in (3, 4) or shape[1] != shape[2] or shape[3:] not in ((), (1,), (3,)):
        raise UserError(f"{what}; {REMEDY}")
    if dtype != np.uint8:
        raise UserError(f"{what}; {REMEDY}: save them as 0..255, e.g. (x * 255).round().astype('uint8') of "
                        "0..1, (x / 257).round().astype('uint8') of 0..65535")
    return shape[0], shape[1]


def array(path, key):
    """One array of an npz; MissingFile, UserError. Kept in the process until the file changes."""
    try:
        state = os.stat(path)
    except OSError:
        raise MissingFile(f"no such file: {path}") from None
    return _array(str(path), key, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _array(path, key, *_):
    with _member(path, key) as (archive, member):
        if member.compress_type == zipfile.ZIP_STORED:
            return _mapped(path, archive, member)
        header(path, key)  # refuses pickled objects
        with archive.open(member) as f:
            return np.lib.format.read_array(f, allow_pickle=False)


def header(path, key):
    """(shape, dtype) of one array; nothing else is read."""
    with _member(path, key) as (archive, member), archive.open(member) as f:
        shape, _, dtype = _read_header(f)
        return shape, dtype


@contextmanager
def _member(path, key):
    """(archive, entry) of one array; what goes wrong inside is one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive, archive.getinfo(f"{key}.npy")
    except FileNotFoundError:
        raise MissingFile(f"no such file: {path}") from None
    except KeyError:
        raise UserError(f"{path}: no array {key!r}; is this a MedMNIST file?") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged or no npz ({error})") from None


def _mapped(path, archive, member):
    """The member as a read-only memory map: its bytes start after the local header of the zip."""
    with open(path, "rb") as f:
        f.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", f.read(4))
        start = member.header_offset + 30 + name_length + extra_length
    with archive.open(member) as f:
        shape, fortran, dtype = _read_header(f)
        return np.memmap(path, dtype, "r", start + f.tell(), shape, "F" if fortran else "C")


def _read_header(f):
    """(shape, Fortran order, dtype) at the start of an npy; ValueError for pickled objects."""
    version = np.lib.format.read_magic(f)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(f)
    if dtype.hasobject:
        raise ValueError("an array of pickled objects")
    return shape, fortran, dtype
