"""Readers without a split file: a folder of class folders, a table; and the maker of all others."""

from cilmp.datasets import locate, partition
from cilmp.datasets.located import Located
from cilmp.datasets.prepare import own
from cilmp.datasets.split_dataset import SplitDataset
from cilmp.datasets.split_file import PARTS, parse_split
from dassl.utils.errors import UserError


def reader(name, facts=None):
    """A reader class for a public set (a row of the table) or for a folder under DATA (no row)."""
    doc = f"{facts.family}: {facts.modality}, {len(facts.classes)} classes. {facts.home}" if facts else name
    return type(name, (SplitDataset,), {"name": name, "facts": facts, "replaceable": True, "__doc__": doc,
                                        "__module__": __name__})


class ImageFolder(SplitDataset):
    """DATASET.ROOT is the folder: <class>/<image>, or <train|val|test>/<class>/<image>.

    Without such parts images are split 70/10/20 by class with a fixed seed of its own, by groups.csv where there
    is one: the same folder gives the same parts on every machine. To keep the split in a file, use
    cilmp prepare folder.
    """

    @classmethod
    def locate(cls, name, root="", size=224):
        path = locate.data_root(root)
        raw = cls.raw(path)
        say(raw, path)
        return in_memory(raw, path if path.is_dir() else path.parent, cls.__name__)

    @staticmethod
    def raw(path):
        return own.class_folders(path)


class DICOM(ImageFolder):
    """As ImageFolder, for folders of DICOM files (any image will do): windowed by their own headers when read."""


class CSV(ImageFolder):
    """DATASET.ROOT is a table path,label[,split][,group]; paths are relative to its folder."""

    @staticmethod
    def raw(path):
        return own.table(path)


_SAID = set()  # a run finds its set more than once; what was left out is said once a process


def say(raw, path):
    """What was left out or guessed on the way, in a folder or table."""
    if path in _SAID:
        return
    _SAID.add(path)
    for line in raw.remarks:
        print(f"note: {line}")
    for line in (*raw.warnings, *raw.doubts()):
        print(f"warning: {line}")


def in_memory(raw, base, name, seed=1):
    """The Located set of a Raw whose files stay where they are; paths are relative to `base`."""
    outside = [im.source for im in raw.images if not im.source.is_relative_to(base)]
    if outside:
        raise UserError(f"{outside[0]} is outside {base}; paths are relative to the folder of the table")
    files = [im.source.relative_to(base).as_posix() for im in raw.images]
    classes = [im.classname for im in raw.images]
    groups = [f"id {im.group}" if im.group else f"one {file}" for im, file in zip(raw.images, files)]
    parts = partition.complete([im.part for im in raw.images], classes, groups, raw.ratios, seed)
    label = {classname: i for i, classname in enumerate(raw.classnames)}
    lists = {part: [] for part in PARTS}
    for file, classname, part in zip(files, classes, parts):
        lists[part].append([file, label[classname], classname])
    ids = {file: im.group for file, im in zip(files, raw.images) if im.group}
    split = parse_split(lists, base / "split.json")
    return Located(split, base, locate.describe(name, split.classnames, split.path), ids)
