"""Your own images: a table path,label[,name][,split][,patient_id]. All faulty rows are told at once, by their line."""

import os
from pathlib import Path

from cilmp.datasets import text_table
from cilmp.datasets.groups import GROUP_COLUMNS, listed
from cilmp.datasets.prepare.base import Image, Raw
from cilmp.datasets.prepare.files import need_utf8
from cilmp.datasets.prepare.layout import part_of
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.names import plain


def table(path, group_regex=None, groups_file=None):
    """Raw of a table with the columns path, label and perhaps split and an id; paths are relative to its folder.

    `label` is the class name, or a number with a further column `name`; classes are in alphabetical order, or in
    the order of the numbers. The id is a column group, patient_id, patient or subject, unless a regular expression
    or a table file,group is given.
    """
    path = Path(path).expanduser().absolute()
    path = path / "labels.csv" if path.is_dir() else path
    if not path.is_file():
        raise MissingFile(f"no such table: {path} (columns path,label[,split][,patient_id])")
    rows = _Rows(text_table.read(path))
    images = rows.images()
    raw = Raw(images, rows.classnames(), remarks=rows.remarks(), origin=path)
    if group_regex or groups_file:
        raw.find_groups(path.parent, group_regex, groups_file)
    elif rows.group is not None:
        raw.key = f"column {rows.table.columns[rows.group]} of {path.name}"
        if not raw.grouped():
            raise UserError(f"{path}: the column {rows.table.columns[rows.group]!r} holds no id in any row; fill or "
                            "remove it")
    else:
        raw.find_groups(path.parent)
    return raw


class _Rows:
    """The rows of a table, judged."""

    def __init__(self, table):
        self.table, self.path = table, table.path
        self.file, self.label = table.need("path"), table.need("label")
        self.name, self.split, self.group = table.find("name"), table.find("split"), table.find(*GROUP_COLUMNS)
        if not table.rows:
            raise UserError(f"{self.path}: the table is empty")
        self._refuse([(line, f"{len(cells)} cells, the header has {len(table.columns)}") for line, cells in table.rows
                      if any(cells[len(table.columns):])])
        self._refuse([(line, fault) for line, cells in table.rows if (fault := self._fault(cells))])
        self.labels = self._labels()
        self.names = [cells[self.name] for _, cells in table.rows] if self.name is not None else self.labels
        self._names_agree()

    def _refuse(self, faults):
        """UserError with all (line, what) of one kind."""
        if faults:
            raise UserError(f"{self.path}: {len(faults)} of {len(self.table.rows)} rows are wrong: "
                            + listed([f"line {line}: {what}" for line, what in faults]))

    def _fault(self, cells):
        """What is wrong with one row, "" if nothing is."""
        if text_table.is_missing(cells[self.file]):
            return "no path"
        if text_table.is_missing(cells[self.label]):
            return f"no label ({cells[self.label]!r})" if cells[self.label] else "no label"
        if self.name is not None and text_table.is_missing(cells[self.name]):
            return f"no class name ({cells[self.name]!r})"
        if self.split is not None and cells[self.split] and not part_of(cells[self.split]):
            return f"split {cells[self.split]!r}; expected train, val or test"
        return ""

    def _labels(self):
        """The labels; where all are numbers, 2.0 is 2 and a fraction is an error."""
        labels = [cells[self.label] for _, cells in self.table.rows]
        numbers = [_number(label) for label in labels]
        if None in numbers:
            return labels
        self._refuse([(line, f"label {label}; labels are whole numbers from 0") for (line, _), label, number in
                      zip(self.table.rows, labels, numbers) if number < 0 or number != int(number)])
        return [str(int(number)) for number in numbers]

    def _names_agree(self):
        """One name a label, one label a name; no two names that differ in case or blanks only; two names or more."""
        plain_names = list(map(plain, self.names))
        for keys, values, words in ((plain_names, self.names, "classes that differ only in case, blanks, '_' or '-'"),
                                    (self.names, self.labels, "classes with several labels"),
                                    (self.labels, self.names, "labels with several class names")):
            if several := self._several(keys, values):
                raise UserError(f"{self.path}: {words}: {listed(several)}")
        if len(set(self.names)) < 2:
            raise UserError(f"{self.path}: one class alone, {self.names[0]!r}; expected two or more")

    def _several(self, keys, values):
        """For each key with more than one value: the values, their rows and the line of the first."""
        found = {}
        for (line, _), key, value in zip(self.table.rows, keys, values):
            found.setdefault(key, {}).setdefault(value, []).append(line)
        return [" and ".join(f"{value!r} ({len(lines)} rows, first line {lines[0]})" for value, lines in of.items())
                for of in found.values() if len(of) > 1]

    def images(self):
        """One Image a row; files that are not there and files that are there twice are errors."""
        sources = [Path(os.path.normpath(self.path.parent / cells[self.file].replace("\\", "/")))
                   for _, cells in self.table.rows]
        for source in sources:
            need_utf8(source)
        missing = [f"line {line}: {cells[self.file]}" for (line, cells), source in zip(self.table.rows, sources)
                   if not _is_file(source)]
        if missing:
            raise MissingFile(f"{self.path}: {len(missing)} of {len(sources)} files are not there: {listed(missing)}; "
                              "paths are relative to the folder of the table")
        first, twice = {}, []
        for (line, cells), source, name in zip(self.table.rows, sources, self.names):
            earlier, before = first.setdefault(source, (line, name))
            if earlier != line:
                twice.append((line, f"{cells[self.file]} is in line {earlier} already" + (
                    f", as {before!r}; one label an image, multi-label sets are not supported" * (before != name))))
        self._refuse(twice)
        targets = _targets(sources, self.path.parent)
        return [Image(source, name, part_of(cells[self.split]) if self.split is not None else "", self._id(cells),
                      target)
                for (_, cells), source, name, target in zip(self.table.rows, sources, self.names, targets)]

    def _id(self, cells):
        return "" if self.group is None or text_table.is_missing(cells[self.group]) else cells[self.group]

    def classnames(self):
        """By number where the labels are numbers, else in alphabetical order."""
        order = dict(zip(self.names, self.labels))
        numbers = all(label.isdecimal() for label in self.labels)
        return tuple(sorted(order, key=lambda name: (int(order[name]) if numbers else 0, name)))

    def remarks(self):
        said = [self.table.remark] if self.table.remark else []
        if all(name.isdecimal() for name in self.names):
            said.append("class names are numbers; the LLM is asked about names, so add a column `name`")
        return said


def _number(text):
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None


def _is_file(path):
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _targets(sources, folder):
    """Where images that are not below the table's folder will lie: as below the folder they share."""
    outside = [s for s in sources if not s.is_relative_to(folder)]
    if not outside:
        return [""] * len(sources)
    shared = os.path.commonpath([s.parent for s in outside])
    return ["" if s.is_relative_to(folder) else os.path.relpath(s, shared) for s in sources]
