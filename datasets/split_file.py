"""The one split format of CoOp, CILMP and BiomedCoOp: read, judged by its text, found on disk, written.

    {"train": [["images/a.png", 0, "normal"], ...], "val": [...], "test": [...]}

Paths are POSIX and relative; labels count from 0; `val` may be absent. Nothing here opens an image.
"""

import json
import posixpath
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from dassl.utils.arrays import file_of
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.io import read_json, write_text

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Three lists of (relative path, label, class name), and the class names in label order."""

    path: Path
    train: list
    val: list
    test: list
    classnames: tuple = field(default=())

    def parts(self):
        return {"train": self.train, "val": self.val, "test": self.test}

    def files(self):
        return [path for part in PARTS for path, _, _ in getattr(self, part)]


def read_split(path):
    """The Split in a JSON file; every fault of its text is a one-line UserError that names the file."""
    path = Path(path)
    return parse_split(read_json(path), path)


def parse_split(content, path="split"):
    """As `read_split`, from the decoded JSON; `path` is for the messages."""
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        raise UserError(f'{path}: not a split file; expected {{"train": [[path, label, class name], ...], '
                        '"val": ..., "test": ...}')
    lists = {part: [_entry(row, f"{path}: {part}[{i}]") for i, row in enumerate(_rows(content, part, path))]
             for part in PARTS}
    for part in ("train", "test"):
        if not lists[part]:
            raise UserError(f"{path}: partition {part!r} is empty")
    _check_files_once(lists, path)
    return Split(Path(path), classnames=_classnames(lists, path), **lists)


def _rows(content, part, path):
    rows = content.get(part) or []
    if not isinstance(rows, list):
        raise UserError(f"{path}: {part!r} is not a list")
    return rows


def _entry(row, where):
    """(normalised path, label, class name) of one row."""
    if not (isinstance(row, (list, tuple)) and len(row) == 3):
        raise UserError(f"{where} is {row!r}; expected [relative path, label, class name]")
    path, label, name = row
    if not isinstance(path, str) or not path:
        raise UserError(f"{where}: the path is {path!r}, not a text")
    if type(label) is not int or label < 0:
        raise UserError(f"{where}: the label is {label!r}; labels are whole numbers from 0")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: the class name is {name!r}, not a text")
    for what, text in (("path", path), ("class name", name)):
        _check_encoding(what, text, where)
    return safe_path(path, where), label, name


def _check_encoding(what, text, where):
    """Refuse what can't be written as UTF-8 (a file name in another encoding) or can't be said by this Python."""
    if text.isascii():
        return
    if sys.getfilesystemencoding() != "utf-8":
        raise UserError(f"{where}: this Python can't name the {what} {text!a}, it knows {sys.getfilesystemencoding()} "
                        "only; set PYTHONUTF8=1 or a UTF-8 locale (LC_ALL=C.UTF-8)")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{where}: the {what} {text!a} is not UTF-8; rename the file or folder")


def safe_path(path, where):
    """The normalised relative POSIX path; an absolute one or one with '..' is refused."""
    if "\0" in path:
        raise UserError(f"{where}: {path!r} has a zero byte; no file is called so")
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\"):
        raise UserError(f"{where}: absolute path {path!r}; paths are relative to the split's folder or to DATA")
    if ".." in PurePosixPath(path.replace("\\", "/")).parts:
        raise UserError(f"{where}: {path!r} climbs with '..'; files stay inside the split's folder or DATA")
    return posixpath.normpath(path)


def _check_files_once(lists, path):
    seen = {}
    for part, rows in lists.items():
        for file, _, _ in rows:
            if file in seen:
                places = f"in {seen[file]!r} and in {part!r}" if seen[file] != part else f"twice in {part!r}"
                raise UserError(f"{path}: {file!r} is {places}; a file belongs to one partition, once")
            seen[file] = part


def _classnames(lists, path):
    """Class names in label order; two names for a label, a label gap, a class without training image are errors."""
    names = {}
    for rows in lists.values():
        for file, label, name in rows:
            if names.setdefault(label, name) != name:
                raise UserError(f"{path}: label {label} has two names, {names[label]!r} and {name!r} (at {file!r})")
    gap = next((i for i, label in enumerate(sorted(names)) if i != label), None)  # nothing is sized by a label
    if gap is not None:
        raise UserError(f"{path}: label gap, no entry has label {gap} though the highest is {max(names)}; "
                        "labels run from 0 without gaps")
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if twice:
        raise UserError(f"{path}: class {twice[0]!r} has the labels {[k for k, v in names.items() if v == twice[0]]}")
    untrained = sorted(set(names) - {label for _, label, _ in lists["train"]})
    if untrained:
        raise UserError(f"{path}: class {names[untrained[0]]!r} (label {untrained[0]}) has no training image")
    return tuple(names[label] for label in range(len(names)))


def find_base(split, bases, remedy=""):
    """The first of `bases` under which every file of the split is; MissingFile with a count otherwise.

    Folders are listed once, so 100 000 images cost as many system calls as there are folders. Links are followed.
    """
    files, listings, fewest = split.files(), {}, None
    for base in dict.fromkeys(Path(b) for b in bases):
        missing = [f for f in files if not _is_there(base, f, listings)]
        if not missing:
            return base
        if fewest is None or len(missing) < len(fewest):
            fewest = missing
    looked = ", ".join(dict.fromkeys(str(b) for b in bases))
    raise MissingFile(f"{split.path}: {len(fewest)} of {len(files)} image files are not there, first "
                      f"{fewest[0]!r}; looked in {looked}.{' ' + remedy if remedy else ''}")


def _is_there(base, file, listings):
    folder, _, name = file_of(file).rpartition("/")
    folder = base / folder
    if folder not in listings:
        try:
            listings[folder] = {entry.name for entry in folder.iterdir()}
        except OSError:
            listings[folder] = frozenset()
    return name in listings[folder]


def write_split(lists, path):
    """Write {part: [(path, label, name)]} with one entry a line; parts without entries are left out (val)."""
    blocks = [f'{json.dumps(part)}: [\n' + ",\n".join(json.dumps(list(row), ensure_ascii=False) for row in rows) + "\n]"
              for part, rows in lists.items() if rows]
    write_text("{\n" + ",\n".join(blocks) + "\n}\n", path)
