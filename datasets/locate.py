"""Finding a data set by its name: the split file, its images and what lies beside it. Needs no torch.

Names are looked up in the table (exact, then without regard to case), then as a folder with a split.json under
DATA. DATA is the root of all sets: `root`, else $DATA, else <repository>/data.
"""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from cilmp.datasets import npz
from cilmp.datasets.beside import read_facts
from cilmp.datasets.facts import phrase
from cilmp.datasets.prepare import own
from cilmp.datasets.split_file import parse_split, read_split, safe_path
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import MissingFile, UserError, unknown_name
from dassl.utils.paths import cache_root, home

FOLDER_SETS = {"ImageFolder": "a folder of class folders (ROOT is the folder)",
               "CSV": "a table path,label[,split][,group] (ROOT is the file)",
               "DICOM": "a folder of class folders of DICOM files (ROOT is the folder)"}
PHANTOM = "phantom"
ROOT_HELP = "where data sets live (default: $DATA, else data/ in the checkout; of an installed package, here)"


@dataclass(frozen=True)
class DatasetInfo:
    """What one wants to know of a set without loading an image."""

    name: str
    classnames: tuple  # in label order
    modality: str = ""
    wording: dict = field(default_factory=dict)  # class name -> clearer wording; every class is there
    source_note: str = ""
    lateral: bool = False
    modalities: dict = field(default_factory=dict)  # class name -> phrase, where classes differ in modality
    home: str = ""
    licence: str = ""
    sources: tuple = ()  # ids of the image collections in it
    split_path: Path | None = None

    def phrases(self, names=()):
        """{class name: what to call it in a question to an LLM}: clearer wording, with the modality it is seen in.
        Of all classes, or of those given, which need not be the set's own."""
        return {name: phrase(self.wording.get(name, name), self.modalities.get(name, self.modality))
                for name in names or self.classnames}


def data_root(root=""):
    """The folder of all data sets, absolute: `root` or $DATA against the caller's folder, else data/ here."""
    root = root or os.environ.get("DATA", "")
    return Path(os.path.abspath(os.path.expanduser(root))) if root else home() / "data"


def canonical(name):
    """The registry's spelling of a name; the name itself where the table does not know it."""
    names = [*TABLE, *FOLDER_SETS, PHANTOM]
    if name in names:
        return name
    same = sorted({TABLE[n].name if n in TABLE else n for n in names if n.lower() == str(name).lower()})
    return same[0] if len(same) == 1 else name


def is_split_folder(name, root=""):
    """Whether `name` is a folder with a split.json under DATA; a name that leaves DATA never is."""
    try:
        return (data_root(root) / safe_path(str(name), "data set")).joinpath("split.json").is_file()
    except UserError:
        return False


def known(root=""):
    """[(name, one line)] of every set: the table, the folder kinds, phantom, the folders under DATA."""
    rows = [(PHANTOM, "drawn images of twelve findings; needs no download"), *FOLDER_SETS.items()]
    rows += [(n, f"{TABLE[n].modality}, {len(TABLE[n].classes)} classes") for n in TABLE.sets()]
    base = data_root(root)
    if base.is_dir():
        rows += [(p.parent.name, f"{p.parent}") for p in sorted(base.glob("*/split.json"))
                 if canonical(p.parent.name) == p.parent.name and p.parent.name not in TABLE]
    return rows


def not_found(name, root=""):
    """The UnknownName for a name that is neither in the table nor a folder with a split.json."""
    base = data_root(root)
    where = f"there is no {base / str(name) / 'split.json'}" if base.is_dir() else f"the data root {base} is not there"
    return unknown_name("dataset", name, [n for n, _ in known(root)],
                        f"As a folder under DATA: {where} (set DATA= or --root); make one with: "
                        f"{prepare_command('folder', base)} --name {shlex.quote(str(name))}")


def find_split(name, root=""):
    """(path of the split file, folders its images may lie under) of a set; MissingFile says where it looked."""
    name = canonical(name)
    if name == PHANTOM:
        from cilmp.datasets import phantom

        folder = phantom.ensure(cache_root() / getattr(phantom, "FOLDER", "phantom-v1"))
        return folder / "split.json", (folder,)
    base = data_root(root)
    if name in TABLE:
        return _find_published(TABLE[name], base)
    if is_split_folder(name, root):
        return base / name / "split.json", _bases(base / name / "split.json", base)
    raise not_found(name, root)


def _find_published(facts, base):
    looked = [base / folder / split for folder, split in split_places(facts)]
    for path in looked:
        if path.is_file():
            return path, _bases(path, base)
    where = ", ".join(map(str, looked)) if base.is_dir() else f"{base} (which is not there; set DATA= or --root)"
    raise MissingFile(f"{facts.name}: no split file; looked for {where}. Make it with: "
                      f"{prepare_command(facts.name, base)}; raw data: {facts.home}")


def split_places(facts):
    """(folder, split file) pairs of a public set, in the order they are tried."""
    published = [(layout.folder, layout.split) for layout in facts.layouts]
    folders = dict.fromkeys([layout.folder for layout in facts.layouts])
    alone = [f for f in folders if sum(f == lay.folder for n in TABLE.sets() for lay in TABLE[n].layouts) == 1]
    return list(dict.fromkeys([*published, *((f, "split.json") for f in [*alone, *map(str.lower, facts.names)])]))


def _bases(split_path, base):
    """The split's folder, its images/ and doubled sub-folder (BiomedCoOp's layout), then DATA."""
    folder = split_path.parent
    return folder, folder / folder.name, folder / "images", base


def load_split(name, root="", size=224):
    """(Split, folders its images may lie under) of a set: its split file, or else its MedMNIST npz.

    Args:
        size: pixels wanted; the smallest npz that has them is taken, else the largest there is.
    """
    try:
        path, bases = find_split(name, root)
        return read_split(path), bases
    except MissingFile as missing:
        facts = TABLE.get(canonical(name))
        if facts is None or not facts.flag:
            raise
        base = data_root(root)
        path = npz.find(facts.flag, npz.folders(base, facts.flag), size)
        if path is None:
            raise MissingFile(f"{missing}; or put {facts.flag}_224.npz (or another size) into {base}") from None
    return parse_split(npz.split_lists(path, facts.classnames), path), (path.parent,)


def prepare_command(name, root):
    """What to type to make a split; "folder" for a set of one's own."""
    return f"cilmp prepare {name} --raw DIR --root {shlex.quote(str(root))}"


def info(name, root=""):
    """DatasetInfo of a set. Class names come from its split file; a public set that is not on this machine
    answers with the names of the table."""
    name = canonical(name)
    if name in FOLDER_SETS:
        path = data_root(root)
        raw = own.table(path) if name == "CSV" else own.class_folders(path)
        return describe(name, raw.classnames, (path if path.is_dir() else path.parent) / "split.json")
    facts = TABLE.get(name)
    try:
        path, _ = find_split(name, root)
    except MissingFile:
        if facts is None:
            raise
        return describe(name, facts.classnames)
    return describe(name, read_split(path).classnames, path)


def describe(name, classnames, split_path=None):
    """DatasetInfo from the table's row and from dataset.json beside the split, which wins."""
    facts, beside = TABLE.get(name), read_facts(split_path) if split_path else {}
    wording = {**(facts.wording() if facts else {}), **beside.get("wording", {})}
    return DatasetInfo(
        name=name, classnames=tuple(classnames),
        modality=beside.get("modality", facts.modality if facts else ""),
        modalities=beside.get("modalities", {}),
        wording={c: wording.get(c, c) for c in classnames},
        source_note=beside.get("note", facts.note if facts else ""),
        lateral=beside.get("lateral", facts.lateral if facts else False),
        sources=tuple(beside.get("sources", facts.sources if facts else ())),
        home=facts.home if facts else "", licence=beside.get("licence", facts.licence if facts else ""),
        split_path=split_path)
