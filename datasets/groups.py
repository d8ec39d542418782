"""Which images belong together (one patient, lesion, slide): ids out of a table or out of the file names.

Whatever the source, the ids are matched with the images there are and counted; ids that match nothing are an error.
"""

import posixpath
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cilmp.datasets import text_table
from cilmp.datasets.facts import compile_pattern, group_id
from dassl.utils.errors import UserError

FILE_COLUMNS = ("file", "path", "file name", "file path", "image", "image path", "image name", "image id", "img")
GROUP_COLUMNS = ("group", "group_id", "patient_id", "patient", "subject_id", "subject")
NO_GROUPS = ("label", "class", "classname", "diagnosis", "split", "part")  # columns that are never ids


@dataclass
class Ids:
    """{file: group} of the files that have one, where the ids come from, and what is to be told."""

    of: dict = field(default_factory=dict)
    key: str = ""
    remarks: list = field(default_factory=list)


def find(folder, files, pattern=None, table=None):
    """The Ids of files (paths as they are told to the user) by a regular expression on the path, else by a table
    (default: groups.csv in the folder); none where there is neither."""
    if pattern:
        return from_pattern(pattern, files)
    if table:
        return from_table(Path(table).expanduser(), files)
    usual = Path(folder, "groups.csv")
    return from_table(usual, files) if usual.is_file() else Ids()


def counted(ids, total):
    """'312 of 312 images have an id, 84 groups' of {file: group}."""
    groups = len(set(ids.values()))
    return f"{len(ids)} of {total} images have an id, {groups} group{'s' * (groups != 1)}"


def from_pattern(pattern, files, option="--group-regex"):
    """The Ids that a regular expression finds in the paths; UserError where it finds none."""
    compiled, files = compile_pattern(pattern, option), list(files)
    found = {file: group for file in files if (group := group_id(compiled, file))}
    if files and not found:
        raise UserError(f"{option} '{pattern}' finds an id in none of the {len(files)} file names, e.g. {files[0]!r}")
    return Ids(found, f"regular expression '{pattern}' on the path")


def from_table(path, files):
    """The Ids in a table file,group for these files.

    Columns go by their names where these say it (file, path, image ...; group, patient, patient_id, subject ...);
    else, in a table of two columns, the first is the file, the second the group. A file may be given by its path, by
    the end of it or by its name, with or without suffix, where that fits one image only. UserError where no row fits
    an image, or two rows give one image different ids.
    """
    table, files = text_table.read(path), list(files)
    file, group = _columns(table)
    rows = _pairs(table.rows, file, group, path)
    if table.find(*FILE_COLUMNS) is None and table.find(*GROUP_COLUMNS) is None:  # perhaps there is no header
        rows = _pairs([(table.header_line, list(table.columns))], file, group, path) + rows
    found, vague = match(rows, files, path)
    if files and not found:
        raise UserError(_nothing(table, rows, files, vague, file, group))
    remarks = [table.remark] if table.remark else []
    if vague:
        remarks.append(f"{path}: {_several(vague)}")
    return Ids(found, f"{Path(path).name}, column {table.columns[group]}", remarks)


def _columns(table):
    """Numbers of the file and of the group column."""
    file, group = table.find(*FILE_COLUMNS), table.find(*GROUP_COLUMNS)
    if len(table.columns) < 2:
        raise UserError(f"{table.path}: one column only, {table.columns[0]!r}; expected file,group")
    if file is None:
        file = 0 if group != 0 else 1
    if group is None:
        group = 1 if file != 1 else 0
        if len(table.columns) > 2 or table.columns[group].lower() in NO_GROUPS:
            raise UserError(f"{table.path}: no column {', '.join(map(repr, GROUP_COLUMNS))}; there are: "
                            f"{', '.join(table.columns)}")
    return file, group


def _pairs(rows, file, group, path):
    """(line, file, group) of the rows that have an id; all faulty rows are told at once."""
    bad = [f"line {line} is {','.join(cells)!r}" for line, cells in rows if not cells[file]]
    if bad:
        raise UserError(f"{path}: {listed(bad)}; expected file,group")
    return [(line, cells[file], cells[group]) for line, cells in rows if not text_table.is_missing(cells[group])]


def listed(faults, shown=5):
    """The first faults and the number of the others."""
    rest = len(faults) - shown
    return "; ".join(faults[:shown]) + (f"; and {rest} more" if rest > 0 else "")


def match(rows, files, where):
    """({file: group}, {written name: files it may mean}) of rows (line, written name, group)."""
    exact, ends = {_clean(f): f for f in files}, None
    found, vague, lines = {}, {}, {}
    for line, written, group in rows:
        name = _clean(written)
        file = next((exact[end] for end in _ends(name) if end in exact), None)  # a longer path than ours
        if file is None:
            ends = ends or _by_end(files)
            fits = ends.get(name, [])
            if len(fits) > 1:
                vague[written] = fits
            if len(fits) != 1:
                continue
            file = fits[0]
        if found.setdefault(file, group) != group:
            raise UserError(f"{where}: {file} has the id {found[file]!r} in line {lines[file]} and {group!r} in line "
                            f"{line}; an image belongs to one group")
        lines[file] = line
    return found, vague


def _clean(name):
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")).lstrip("/"))


def _ends(name):
    """The path, then its ends: a/b/c, b/c, c."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _by_end(files):
    """{end of a path, with and without suffix: files that end so}."""
    index = {}
    for file in files:
        for end in _ends(_clean(file)):
            for key in {end, posixpath.splitext(end)[0]}:
                index.setdefault(key, []).append(file)
    return index


def _several(vague):
    name, fits = next(iter(vague.items()))
    return f"{len(vague)} file names fit several images, {name!r} fits {fits[0]} and {fits[1]}; write the path below " \
           "the folder"


def _nothing(table, rows, files, vague, file, group):
    """Why no row fits an image."""
    if vague:
        return f"{table.path}: {_several(vague)}"
    if not rows:
        return f"{table.path}: no row has an id in the column {table.columns[group]!r}"
    ends = _by_end(files)
    swapped = any(_clean(written) in ends for _, _, written in rows)
    return f"{table.path}: none of its {len(rows)} rows fits one of the {len(files)} images: column " \
           f"{table.columns[file]!r} has {rows[0][1]!r}, the first image is {min(files)!r}; " \
           + ("the columns are swapped, the file comes first" if swapped else "expected file,group")


def alone(ids):
    """Whether every id is on one image: then they keep nothing together."""
    return bool(ids) and max(Counter(ids.values()).values()) == 1

