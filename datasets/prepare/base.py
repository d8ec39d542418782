"""What every preparation uses: the images of a raw folder, its tables, and the list a preparation returns."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from cilmp.datasets import groups, text_table
from cilmp.datasets.prepare.files import walk
from dassl.utils.errors import MissingFile, UserError


@dataclass(frozen=True)
class Image:
    """One labelled image of the raw data."""

    source: Path
    classname: str
    part: str = ""  # official partition, "" where there is none
    group: str = ""  # patient, lesion ...; "" where nothing is known
    target: str = ""  # path below images/; "" = as below the raw folder


@dataclass
class Raw:
    """What a preparation found: images, class names in label order, and what to tell the user."""

    images: list
    classnames: tuple
    key: str = ""  # which id made the groups, in words
    ratios: tuple = (0.7, 0.1, 0.2)
    duplicates: bool = False  # near duplicates are to be kept together
    remarks: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    ids: bool = True  # groups are ids of patients, lesions ...; False: clusters of near duplicates
    origin: Path | None = None  # the table or folder that a mistake is in

    def regroup(self, group_of, key, ids=True):
        """Give each image the group that {source: group} has for it; the others have none."""
        self.images = [replace(im, group=group_of.get(im.source, "")) for im in self.images]
        self.key, self.ids = key, ids

    def find_groups(self, folder, regex=None, table=None):
        """Groups by a regular expression on the path below the folder, or by a table (default: its groups.csv)."""
        files = {im.source.relative_to(folder).as_posix() if im.source.is_relative_to(folder) else str(im.source):
                 im.source for im in self.images}
        ids = groups.find(folder, files, regex, table)
        if ids.of:
            self.regroup({files[file]: group for file, group in ids.of.items()}, ids.key)
        self.remarks += ids.remarks

    def grouped(self):
        """{source: group} of the images that have one."""
        return {im.source: im.group for im in self.images if im.group}

    def grouping(self):
        """What was kept together, in words."""
        found = self.grouped()
        if not found:
            return "nothing - no id was given, images of one patient may be in several parts"
        if self.ids:
            return f"{self.key}; {groups.counted(found, len(self.images))}"
        many = len(set(found.values()))
        return f"{self.key}; {len(found)} of {len(self.images)} images, {many} group{'s' * (many != 1)}; no patient " \
               "ids: images of one patient may be in several parts"

    def doubts(self):
        """Warnings about ids that are not what one would expect."""
        found = self.grouped()
        without = [im.source for im in self.images if not im.group]
        if found and self.ids and without:
            yield f"{len(without)} of {len(self.images)} images have no id, first {without[0]}; each is taken for a " \
                  "patient of its own"
        if found and self.ids and groups.alone(found):
            yield f"{self.key}: every id is on one image, so nothing is kept together; is it the patient's?"


def find(raw, *names, kind="any", needed=True):
    """The outermost file or folder under `raw` with one of these names (any case); an absent one is an error."""
    wanted = {n.lower() for n in names}
    for top, folders, files in walk(raw):
        here = (folders if kind != "file" else []) + (files if kind != "folder" else [])
        hit = next((n for n in here if n.lower() in wanted), None)
        if hit:
            return Path(top, hit)
        if kind != "file" and Path(top).name.lower() in wanted and Path(top) == Path(raw):
            return Path(top)
    if needed:
        raise MissingFile(f"{raw}: found no {' or '.join(names)}; is --raw the folder with the unpacked download?")
    return None


def read_table(path, delimiter=None):
    """Rows of a published csv as dicts; encoding and delimiter are told by the file."""
    return text_table.read(path, delimiter, strict=False).dicts()


def column(row, name, path):
    """A value of a row by column name, any case; a missing column is an error that lists the columns there are."""
    for key, value in row.items():
        if key.lower() == name.lower():
            return value
    raise UserError(f"{path}: no column {name!r}; there are: {', '.join(row)}")


def by_stem(files):
    """{file name without suffix, lower case: path}; two files with one stem are an error."""
    index = {}
    for file in files:
        if index.setdefault(file.stem.lower(), file) != file:
            raise UserError(f"two images are called {file.stem!r}: {index[file.stem.lower()]} and {file}")
    return index


def look_up(index, stem, where):
    if (found := index.get(stem.lower())) is None:
        raise MissingFile(f"{where}: image {stem!r} is not among the {len(index)} images found")
    return found
