"""The facts of a public set: one row that feeds the reader, the preparation, the docs table and the LLM question."""

import re
from dataclasses import dataclass, field

from dassl.utils.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Where a published copy keeps its split: DATA/<folder>/<split>, images under <folder>/<images>."""

    folder: str
    split: str
    images: str = ""


@dataclass(frozen=True)
class Facts:
    """One data set. Counts are the published ones; preparation warns when it finds others."""

    name: str  # in the registry
    family: str  # CILMP, BiomedCoOp, MedMNIST
    modality: str  # phrase for the LLM question: "... in a <modality>"
    organ: str
    classes: tuple  # (class name, clearer wording or "") in label order
    layouts: tuple  # Layout: the first is the one we write; the others are read as they are
    counts: tuple  # images a class in label order, () where unknown
    partition: str  # which images train and which test
    group: str  # what an id ties together, or why there is none
    home: str
    licence: str
    note: str = ""  # travels with every table
    lateral: bool = False  # left and right mean something: no flips
    aliases: tuple = ()  # other registry names
    dialect: dict = field(default_factory=dict)  # wording of class names of other published split files
    sources: tuple = ()  # ids of the image collections in it; two sets that share one overlap
    pattern: str = ""  # regular expression on a file name; its brackets together are the group id
    flag: str = ""  # MedMNIST file
    parts: tuple = ()  # of a MedMNIST file: its published numbers of train, val and test images
    download: str = ""  # where it is open: zenodo:<record>, kaggle:<owner/name>, url:<...>
    click: str = ""  # where it is not: what to do on the page

    @property
    def names(self):
        return (self.name, *self.aliases)

    @property
    def classnames(self):
        return tuple(name for name, _ in self.classes)

    def group_of(self, file):
        """The group id that a file name carries, "" where it carries none."""
        return group_id(re.compile(self.pattern), file.rsplit("/", 1)[-1]) if self.pattern else ""

    def wording(self):
        """{class name: wording} for names of every dialect; the name itself where nothing is clearer."""
        return {**{name: words or name for name, words in self.classes}, **self.dialect}


class Table(dict):
    """{registry name: Facts}; an alias counts as a name, and a name is taken once."""

    def add(self, *rows):
        for facts in rows:
            for name in facts.names:
                if name in self:
                    raise UserError(f"two data sets are called {name!r}")
                self[name] = facts

    def sets(self):
        """Each set once, in the order of the table."""
        return list(dict.fromkeys(facts.name for facts in self.values()))


def compile_pattern(pattern, option="--group-regex"):
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{option} {pattern!r} is not a regular expression ({error})") from None


def group_id(pattern, text):
    """The id a compiled pattern finds in a text: its brackets joined by blanks, else the whole match, else ""."""
    match = pattern.search(text)
    if not match:
        return ""
    return " ".join(g for g in match.groups() if g) if pattern.groups else match.group(0)


def article(phrase):
    """'a' or 'an' before a phrase; letters that are spoken as letters count by sound (an H&E, an MRI)."""
    word = phrase.split()[0]
    if word[:2].isupper() or word.startswith("H&"):
        return "an" if word[0] in "AEFHILMNORSX" else "a"
    return "an" if word[0].lower() in "aeio" else "a"


def phrase(wording, modality=""):
    """What a class is called in a question to an LLM: "cyst in an abdominal CT slice", or the wording alone."""
    return f"{wording} in {article(modality)} {modality}" if modality else wording
