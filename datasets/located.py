"""A data set found on this machine: all of it but its pixels, found once."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from cilmp.datasets import locate, npz
from cilmp.datasets.beside import read_groups
from cilmp.datasets.split_file import Split, find_base
from cilmp.datasets.tables import TABLE
from dassl.utils.io import sha256_of


@dataclass(frozen=True)
class Located:
    """The whole split, where its images lie, what is known of the set, which images belong together."""

    split: Split  # before few-shot sampling and the choice of classes
    base: Path  # absolute folder that the paths of the split start from
    info: locate.DatasetInfo
    groups: dict = field(default_factory=dict)  # {path as in the split: patient, lesion ...}

    def impath(self, file):
        """Absolute path of a file of the split."""
        return os.path.join(self.base, file)

    def reads(self):
        """What a run on this set reads, as SHA-256: {"split": of the whole lists of (path, label, class name),
        "groups": of the groups}. Paths are relative; no image is opened."""
        return {"split": sha256_of(self.split.parts()), "groups": sha256_of(self.groups)}


def by_name(name, root="", size=224):
    """The Located set of a name under DATA: its split file, or else its MedMNIST npz of at least `size` pixels."""
    name = locate.canonical(name)
    split, bases = locate.load_split(name, root, size)
    remedy = locate.prepare_command(name if name in TABLE else "folder", locate.data_root(root))
    base = find_base(split, bases, f"Make or mend it with: {remedy}")
    facts, info = TABLE.get(name), locate.describe(name, split.classnames, split.path)
    if facts and (remark := npz.published(facts, split.parts())):
        info = replace(info, source_note=f"{info.source_note} {remark}".strip())
    return Located(split, base, info, read_groups(split.path, base, split.files(), facts))
