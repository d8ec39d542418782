"""What can be said against a split: findings, notes and what was not looked at. Nothing is changed.

A finding is something a reviewer would object to: files that are not there or don't decode, a class without test
images, a patient or a picture in two partitions. A note is worth knowing: imbalance, image sizes, copies inside
one partition. Clean is what has no finding and was looked at in every respect, patients included.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from cilmp.datasets import duplicates, groups, locate, npz
from cilmp.datasets.beside import are_ids, find_groups
from cilmp.datasets.prepare.files import need_utf8
from cilmp.datasets.prepare.run import MOST_COPIES, clusters_of, too_many
from cilmp.datasets.scan import scan
from cilmp.datasets.split_file import PARTS, find_base, read_split
from cilmp.datasets.tables import TABLE
from dassl.utils.arrays import file_of
from dassl.utils.errors import MissingFile, UnknownName, UserError


@dataclass
class Report:
    """Lines of one kind each; `unchecked` says why for each thing that was not looked at."""

    name: str
    findings: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    passed: list = field(default_factory=list)
    unchecked: dict = field(default_factory=dict)
    split: object = None
    base: Path | None = None
    seen: dict = field(default_factory=dict)

    @property
    def clean(self):
        return not self.findings and not self.unchecked

    def verdict(self):
        """One line: 'clean' only where nothing was left unchecked."""
        count = len(self.findings)
        found = f"{count} finding{'s' * (count != 1)}" if count else "nothing found"
        return "clean" if self.clean else found + (f", but not checked: {', '.join(self.unchecked)}"
                                                   if self.unchecked else "")

    def say(self, bad, good):
        """`bad` as a finding if it says something, else `good` as passed."""
        (self.findings if bad else self.passed).append(bad or good)

    def text(self):
        unchecked = [f"not checked: {what}; {why}" for what, why in self.unchecked.items()]
        kinds = (("ok", self.passed), ("note", self.notes), ("--", unchecked), ("FOUND", self.findings))
        return "\n".join(f"{kind:<6} {line}" for kind, lines in kinds for line in lines)


def check(name, root="", pixels=True, pattern="", workers=None, progress=True):
    """The Report on a data set by name, or on a split file by path.

    Args:
        name: a data set, or a file; `split_<NAME>.json` says which public set it is.
        pixels: open every image (False: only the text of the split is judged).
        pattern: regular expression that finds a group id in a file name, instead of groups.csv or the set's own.
    """
    load, facts = _what(name, root)
    report = Report(facts.name if facts else _named_by(Path(name)) if Path(name).is_file() else str(name))
    try:
        split, bases = load()
    except (MissingFile, UnknownName):
        raise  # a bad call: there is nothing to check
    except UserError as error:
        report.findings.append(str(error))
        return report
    report.split, path = split, split.path
    report.passed.append(f"text: {path} is a valid split, {len(split.classnames)} classes, no file in two partitions")
    _balance(report, split)
    report.base = _files(report, split, bases)
    _leakage(report, split, _groups(report, split, report.base or path.parent, facts, pattern), pattern)
    if pixels and report.base is not None:
        _pixels(report, split, workers, progress)
    else:
        report.unchecked["decoding, sizes, duplicates"] = "no image is here" if pixels else "no image was opened"
    _known(report, split, facts)
    return report


def _what(name, root):
    """(function that gives the Split and the folders of its images, Facts or None)."""
    path = Path(name).expanduser()
    if path.is_file():
        spelled = locate.canonical(_named_by(path))
        bases = (path.parent, path.parent / path.parent.name, path.parent / "images", path.parent.parent)
        return lambda: (read_split(path), bases), TABLE.get(spelled) or _by_layout(path)
    if path.suffix == ".json":
        raise MissingFile(f"no such split file: {path}")
    return lambda: locate.load_split(str(name), root), TABLE.get(locate.canonical(str(name)))


def _named_by(path):
    """The data set a split file speaks of: split_<NAME>.json, <NAME>.json, <NAME>/split.json."""
    return path.absolute().parent.name if path.stem == "split" else path.stem.removeprefix("split_")


def _by_layout(path):
    """The public set whose layout is <folder>/<split file>, if any."""
    for name in TABLE.sets():
        if any((path.parent.name, path.name) == (lay.folder, lay.split) for lay in TABLE[name].layouts):
            return TABLE[name]
    return None


def _balance(report, split):
    """Every class has test images; val is there; how uneven train is."""
    for part in ("val", "test"):
        rows = split.parts()[part]
        missing = [c for c in split.classnames if c not in {name for _, _, name in rows}]
        if not rows:
            report.notes.append("no val partition: best_val is not possible, last step is")
        elif missing:
            line = f"classes without a {part} image: {', '.join(missing)}"
            (report.findings if part == "test" else report.notes).append(line)
    counts = Counter(name for _, _, name in split.train)
    most, least = max(counts.values()), min(counts.values())
    report.notes.append(f"balance: {least} to {most} training images a class ({most / least:.1f} : 1)"
                        + ("; report macro-F1 and balanced accuracy beside accuracy" if most > 3 * least else ""))


def _files(report, split, bases):
    """The folder of the images; None if not one of them is here (then nothing is said against the split)."""
    for file in split.files():
        need_utf8(file)  # under a locale that can't spell it, every file would seem to be absent
    try:
        base = find_base(split, bases)
    except MissingFile as missing:
        there = [b for b in bases if any((Path(b) / file_of(f)).exists() for f in split.files())]
        if there:
            report.findings.append(str(missing))
            return Path(there[0])
        report.unchecked[f"{len(split.files())} files"] = "no image is here"
        return None
    report.passed.append(f"files: all {len(split.files())} are there, under {base}")
    return base


def _groups(report, split, base, facts, pattern):
    """The groups.Ids of the split; a groups.csv that fits no file is a finding."""
    if pattern:
        return groups.from_pattern(pattern, split.files())
    try:
        return find_groups(split.path, base, split.files(), facts)
    except UserError as error:
        report.findings.append(str(error))
        return groups.Ids()


def _leakage(report, split, ids, pattern):
    """Groups (patients, lesions, slides) that are in two partitions, and images whose group nobody knows."""
    if not ids.of:
        report.unchecked["groups"] = "no groups.csv that fits, and the file names carry no known id (--group-regex " \
                                     "finds one)"
        return
    of, total = ids.of, len(split.files())
    found = {part: {of[f] for f, _, _ in rows if f in of} for part, rows in split.parts().items()}
    report.notes += [f"groups: {groups.counted(of, total)}; key: {ids.key}", *ids.remarks]
    leaks = [f"{len(found[b] & found[a])} of the {len(found[b])} groups of {b} are also in {a}"
             for a, b in combinations(PARTS, 2) if found[a] & found[b]]
    report.say("group leakage: " + "; ".join(leaks) if leaks else "", "groups: none is in two partitions")
    if not pattern and not are_ids(split.path):
        report.unchecked["patients"] = "groups.csv ties near duplicates, it holds no ids"
    elif len(of) < total:
        report.unchecked[f"groups of {total - len(of)} of {total} images"] = "they have no id"
    if groups.alone(of):
        report.notes.append("groups: every id is on one image; is it the patient's?")


def _pixels(report, split, workers, progress):
    """Every image is opened: decoding, sizes and modes, exact and near duplicates."""
    part_of = {str(report.base / f): (part, name) for part, rows in split.parts().items() for f, _, name in rows}
    there = [f for f in part_of if Path(file_of(f)).exists()]
    seen = report.seen = scan(there, workers, "checking", progress)
    bad = [s.error for s in seen.values() if s.error]
    report.say(f"{len(bad)} images can't be read, first: {bad[0]}" if bad else "", f"images: all {len(seen)} decode")
    good = {f: s for f, s in seen.items() if not s.error}
    if good:
        report.notes.append(_sizes(good))
        _duplicates(report, good, part_of)


def _sizes(seen):
    modes = ", ".join(f"{mode} {n}" for mode, n in Counter(s.mode for s in seen.values()).most_common())
    sides = sorted(s.size for s in seen.values())
    common = Counter(sides).most_common(1)[0]
    short = [min(size) for size in sides]
    return f"images: {common[1]} of {len(seen)} are {common[0][0]} x {common[0][1]}; shorter side {min(short)} to " \
           f"{max(short)} pixels; modes {modes}"


def _duplicates(report, seen, part_of):
    """Copies across partitions and copies with two labels are findings, clusters too large to be copies as well;
    copies inside one partition are a note."""
    alike = duplicates.alike_pairs(seen)
    near = [(a, b) for a, b, *_ in alike if seen[a].pixels != seen[b].pixels]
    report.findings += [f"{too_many(files, report.base)}: look at them" for files in clusters_of(seen, alike)
                        if len(files) > MOST_COPIES]
    for kind, found, unit in (("exact", duplicates.exact_groups(seen), "sets of equal images"),
                              ("near", near, "pairs of alike images")):
        across = [files for files in found if len({part_of[f][0] for f in files}) > 1]
        labels = [files for files in found if len({part_of[f][1] for f in files}) > 1]
        report.say(f"{kind} duplicates across partitions: {len(across)} {unit}, e.g. {_named(across[0], report.base)}"
                   if across else "", f"{kind} duplicates: none across partitions")
        if labels:
            (report.findings if kind == "exact" else report.notes).append(
                f"{kind} duplicates with two labels: {len(labels)} {unit}, e.g. {_named(labels[0], report.base)}")
        if len(found) > len(across):
            report.notes.append(f"{kind} duplicates inside a partition: {len(found) - len(across)} {unit}")


def _named(files, base):
    return " = ".join(sorted(str(Path(f).relative_to(base)) for f in files)[:3])


def _known(report, split, facts):
    """Where a public set differs from what is published, and what the table warns of."""
    if facts is None:
        return
    counts = Counter(name for rows in split.parts().values() for _, _, name in rows)
    if set(split.classnames) == set(facts.classnames) and facts.counts:
        differ = [f"{c} {counts[c]} (published {n})" for c, n in zip(facts.classnames, facts.counts) if counts[c] != n]
        if differ:
            report.notes.append("counts that are not the published ones: " + ", ".join(differ))
    if remark := npz.published(facts, split.parts()):
        report.notes.append(remark)
    if facts.note:
        report.notes.append(f"known of {facts.name}: {facts.note}")
