"""What lies under a raw folder: images by their content, and what is left out, counted."""

import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dassl.utils.errors import MissingFile, UserError
from dassl.utils.images import recognised

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom")  # broken or not
OURS = ("split.json", "dataset.json", "groups.csv")  # what may lie beside images


@dataclass
class Found:
    """The images under a folder, sorted, and all else there is."""

    images: list = field(default_factory=list)
    folders: list = field(default_factory=list)
    others: list = field(default_factory=list)  # files that are no images
    links: list = field(default_factory=list)  # links to folders of the same tree, not followed
    odd: list = field(default_factory=list)  # pipes, sockets, devices

    def remarks(self):
        """What was left out, in words: a line for each kind."""
        lines = [f"left out {by_suffix(self.others)}: not images"] if self.others else []
        if self.links:
            lines.append(f"left out {len(self.links)} links into the same tree, first {self.links[0]}: their images "
                         "would count twice")
        if self.odd:
            lines.append(f"left out {len(self.odd)} pipes, sockets or devices, first {self.odd[0]}")
        return lines


def by_suffix(files):
    """'12 .txt, 3 .xml' of paths, the most frequent first."""
    counts = Counter(Path(f).suffix.lower() or "without suffix" for f in files)
    return ", ".join(f"{n} {suffix}" for suffix, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def look_under(folder, drop=""):
    """The Found of a folder. An image is what has an image's suffix or its content; hidden files, __MACOSX and names
    that match the regular expression `drop` are passed over."""
    found = Found()
    for top, folders, files in walk(folder, found):
        found.folders += [Path(top, f) for f in folders]
        for name in files:
            if drop and re.search(drop, name):
                continue
            path = Path(top, name)
            if name.lower().endswith(SUFFIXES) or recognised(path):
                found.images.append(path)
            elif top != str(folder) or name not in OURS:
                found.others.append(path)
    for paths in (found.images, found.folders, found.others):
        paths.sort()
    return found


def find_images(folder, drop=""):
    """Sorted image files under a folder, as `look_under` finds them."""
    return look_under(folder, drop).images


def walk(folder, found=None):
    """(folder, names of its folders, names of its files) from the top down, sorted, links followed.

    Hidden ones and __MACOSX are passed over. So are links to a folder of the tree that is walked (a loop, or images
    under two names) and what is neither file nor folder: noted in `found`. A folder that can't be listed, or a name
    that is no UTF-8, is an error.
    """
    found = Found() if found is None else found
    home = os.path.realpath(folder)
    todo = [(str(folder), (home, home))]
    while todo:
        top, above = todo.pop()
        folders, files = [], []
        for entry in _entries(top):
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            need_utf8(entry.path)
            if _is_folder(entry):
                folders.append(entry.name)
            elif os.path.isfile(entry.path) or entry.is_symlink():  # a dead link is told when it is opened
                files.append(entry.name)
            else:
                found.odd.append(entry.path)
        below = [(os.path.join(top, name), above) for name in sorted(folders)]
        below = [(path, _real(path, above)) for path, above in below]
        found.links += [path for path, real in below if real is None]
        below = [step for step in below if step[1] is not None]
        yield top, [os.path.basename(path) for path, _ in below], sorted(files)
        todo += below[::-1]


def _entries(top):
    try:
        with os.scandir(top) as entries:
            return list(entries)
    except OSError as error:
        shown = top if len(top) < 200 else f"{top[:80]} ... {top[-80:]}"
        raise UserError(f"{shown} can't be listed ({error.strerror})") from None


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _real(path, above):
    """The real folders on the way to `path`: the tree itself, one for each link that was followed, the folder. None
    for a link into the tree, or to or above a folder on the way."""
    if not os.path.islink(path):
        return (*above[:-1], os.path.join(above[-1], os.path.basename(path)))
    target = os.path.realpath(path)
    if _inside(target, above[0]) or any(_inside(real, target) for real in above):
        return None
    return (*above, target)


def _inside(path, folder):
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def need_utf8(path):
    """UserError where a path can't be written into a split: its bytes are no UTF-8, or this Python takes them for
    something else."""
    try:
        str(path).encode("utf-8")
        os.fsencode(path)
    except UnicodeEncodeError:
        shown = ascii(str(path))[1:-1]
        if (encoding := sys.getfilesystemencoding()) != "utf-8":
            raise UserError(f"{shown}: Python takes file names for {encoding} here; set PYTHONUTF8=1 (or "
                            "LC_ALL=C.UTF-8) and call again") from None
        raise UserError(f"the file name {shown} is not UTF-8; rename it, e.g. with convmv -f latin1 -t utf8") from None


def need_folder(raw):
    """The raw folder, absolute; an absent one is an error."""
    raw = Path(raw).expanduser().absolute()
    need_utf8(raw)
    if not raw.is_dir():
        raise MissingFile(f"no such folder: {raw} (--raw is the folder with the unpacked download)")
    return raw


def need_root(root):
    """UserError where the root of all data sets is a file; one that is not there yet is made."""
    root = Path(root)
    need_utf8(root)
    for folder in (root, *root.parents):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, not a folder; --root (or DATA) is the folder of all data sets")
