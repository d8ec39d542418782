"""The steps that follow once a preparation knows its images: verify, partition, place, write, tell."""

import csv
import io
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cilmp.datasets import duplicates, partition
from cilmp.datasets.beside import facts_path
from cilmp.datasets.prepare.place import place_all, target_path
from cilmp.datasets.scan import scan
from cilmp.datasets.split_file import PARTS, parse_split, write_split
from dassl.utils.errors import UserError
from dassl.utils.io import read_json, write_json, write_text

MOST_COPIES = 10  # images in a cluster of near duplicates that is believed without a look


@dataclass(frozen=True)
class Options:
    """How a split is made; the defaults are those of the script."""

    seed: int = 1
    ratios: tuple | None = None  # None: the preparation's own
    copy: bool = False
    resize: int = 0
    verify: bool = True
    on_bad_image: str = "error"
    duplicates: bool = True  # keep near duplicates together where the set asks for it
    workers: int | None = None
    progress: bool = True


def make(raw, raw_folder, split_path, options=Options(), facts=None):
    """Write the split of a Raw at `split_path`, its images below the same folder; returns {part: entries}.

    Facts (a dict) go into dataset.json. Everything is judged before the split appears, and the split is written
    last: a break leaves no half split, a second call goes on.
    """
    split_path = Path(split_path)
    if options.resize and Path(raw_folder).resolve() == split_path.parent.resolve():
        raise UserError(f"--resize: {raw_folder} is the data set's own folder; put the raw images elsewhere")
    if raw.origin and Path(raw.origin).resolve() in split_path.parent.resolve().parents:
        raise UserError(f"{split_path.parent} lies inside the raw folder {raw.origin}: the next call would take its "
                        "images for a class; choose another --root")
    _verify(raw, raw_folder, options)
    origin = raw.origin or raw_folder
    groups = _group_names(raw, raw_folder)
    classes = [im.classname for im in raw.images]
    ratios = options.ratios or raw.ratios
    _need_own_groups(raw, raw_folder, split_path)
    try:
        parts = partition.complete([im.part for im in raw.images], classes, groups, ratios, options.seed)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    if leaking := partition.leaks(parts, [im.group for im in raw.images]):
        raw.warnings.append(f"{len(leaking)} groups are in two given partitions, first {next(iter(leaking))!r}")
    files = [target_path(im, raw_folder, split_path.parent, options.resize) for im in raw.images]
    _need_own_places(raw, files)
    lists = _lists(raw, files, parts)
    _need_train_and_test(lists, raw.classnames, groups, origin)
    parse_split(lists, origin)
    with writing_to(split_path.parent):
        new = place_all([(im.source, split_path.parent / file) for im, file in zip(raw.images, files)],
                        "copy" if options.copy else "link", options.resize, options.workers, options.progress,
                        anew=_before(split_path).get("resize", options.resize) != options.resize)
        _write_groups(raw, files, split_path.parent)
        write_json({**(facts or {}), "preparation": _record(raw, raw_folder, lists, ratios, options)},
                   facts_path(split_path), indent=2)
        write_split(lists, split_path)
    raw.remarks.append(f"{new} images placed, {len(files) - new} were there")
    return lists


@contextmanager
def writing_to(folder):
    """What the file system refuses (no right, no space, a file in the way) becomes one line."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or folder}: can't be written ({error.strerror or error})") from None


def _need_own_places(raw, files):
    """UserError where two images would lie in one place, e.g. of tables that name files in several folders."""
    seen = {}
    for im, file in zip(raw.images, files):
        if (other := seen.setdefault(file, im.source)) != im.source:
            raise UserError(f"{other} and {im.source} would both become {file}; rename one of them")


def _need_train_and_test(lists, classnames, groups, origin):
    """UserError, blamed on the raw data, for a class without images and for an empty train or test."""
    counted = Counter(name for rows in lists.values() for _, _, name in rows)
    if gone := [name for name in classnames if not counted[name]]:
        raise UserError(f"{origin}: no readable image of the class {gone[0]!r}")
    for part in ("train", "test"):
        if not lists[part]:
            units, largest = len(set(groups)), Counter(groups).most_common(1)[0][1]
            raise UserError(f"{origin}: partition {part!r} is empty: {len(groups)} images in {units} groups, the "
                            f"largest of {largest}; it needs more images, other --ratios or finer groups")


def _need_own_groups(raw, raw_folder, split_path):
    """UserError for a groups.csv beside the split that no preparation wrote and that the split would not obey."""
    there = split_path.parent / "groups.csv"
    if raw.grouped() or not there.is_file() or Path(raw_folder).resolve() == split_path.parent.resolve():
        return
    if _before(split_path).get("group_key", "none") == "none":
        raise UserError(f"{there} was not made here: give it with --groups, so that its groups stay in one part, or "
                        "take it away")


def _verify(raw, raw_folder, options):
    """Take unreadable images out of the Raw, or say which is the first; near duplicates become groups."""
    close = raw.duplicates and options.duplicates
    if close and raw.grouped():
        raw.remarks.append("near duplicates are not looked for: the ids say what belongs together")
        close = False
    if not (options.verify or close):
        return
    files = [str(im.source) for im in raw.images]
    seen = scan(files, options.workers, "reading", options.progress)
    bad = [f for f in files if seen[f].error]
    if bad and options.on_bad_image != "skip":
        raise UserError(f"{len(bad)} of {len(files)} images can't be read, first: {seen[bad[0]].error}; "
                        "mend them, or leave them out with --on-bad-image skip")
    if bad:
        raw.remarks.append(f"left out {len(bad)} unreadable images, first: {seen[bad[0]].error}")
        raw.images = [im for im in raw.images if not seen[str(im.source)].error]
    if close:
        _join(raw, raw_folder, {f: s for f, s in seen.items() if not s.error})


def _join(raw, raw_folder, seen):
    """Clusters of near duplicates as groups. A cluster of more than MOST_COPIES is no copy but a template (an empty
    frame, a test picture) or a chain of strangers: it is left alone, and the user is told."""
    few, many = [], []
    for files in clusters_of(seen, duplicates.alike_pairs(seen)):
        (few if len(files) <= MOST_COPIES else many).append(files)
    raw.regroup({Path(f): _below(files[0], raw_folder) for files in few for f in files},
                "near duplicates, told by their looks", ids=False)
    raw.warnings += [f"{too_many(files)}: not kept together, look at them" for files in many]


def clusters_of(seen, pairs):
    """Lists of files that any chain of pairs joins, the longest first."""
    clusters = {}
    for file, name in duplicates.clusters(seen, pairs).items():
        clusters.setdefault(name, []).append(file)
    return sorted((sorted(files) for files in clusters.values() if len(files) > 1), key=lambda fs: (-len(fs), fs))


def too_many(files, base=None):
    """What is said of a cluster that is too large to be copies."""
    names = [str(Path(f).relative_to(base)) if base else Path(f).name for f in files[:3]]
    return f"{len(files)} images look like one another, too many to be copies, e.g. {', '.join(names)}"


def _group_names(raw, raw_folder):
    """A group for each image: its id, or a name of its own that no id can equal."""
    return [f"id {im.group}" if im.group else f"one {_below(im.source, raw_folder)}" for im in raw.images]


def _below(source, folder):
    source = Path(source)
    return source.relative_to(folder).as_posix() if source.is_relative_to(folder) else source.as_posix()


def _before(split_path):
    """The record of the preparation whose split lies there; {} if none has finished."""
    path = facts_path(split_path)
    return read_json(path).get("preparation", {}) if path.is_file() else {}


def _lists(raw, files, parts):
    """{part: [[file, label, name]]}, sorted by label, then file."""
    label = {name: i for i, name in enumerate(raw.classnames)}
    lists = {part: [] for part in PARTS}
    for image, file, part in zip(raw.images, files, parts):
        lists[part].append([file, label[image.classname], image.classname])
    return {part: sorted(rows, key=lambda row: (row[1], row[0])) for part, rows in lists.items()}


def _write_groups(raw, files, folder):
    """groups.csv beside the split: file,group of the images that have one. Without any, one of an earlier
    preparation goes: the split does not obey it."""
    rows = sorted((file, im.group) for im, file in zip(raw.images, files) if im.group)
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("file", "group"), *rows])
        write_text(text.getvalue(), folder / "groups.csv")
    else:
        (folder / "groups.csv").unlink(missing_ok=True)


def _record(raw, raw_folder, lists, ratios, options):
    ids = raw.grouped()
    return {"raw": Path(raw_folder).name, "seed": options.seed, "ratios": list(ratios),
            "group_key": raw.key if ids else "none", "group_ids": bool(ids) and raw.ids, "grouped": len(ids),
            "official": sorted({im.part for im in raw.images} - {""}), "resize": options.resize,
            "counts": {part: counts(lists, raw.classnames, part) for part in PARTS}}


def counts(lists, classnames, part):
    """{class name: images} of one part, every class named."""
    found = Counter(name for _, _, name in lists.get(part, []))
    return {name: found[name] for name in classnames}


def table(lists, classnames):
    """The counts as lines of text: a row a class, a column a part, totals last."""
    head = f"{'label':>5}  {'class':<40} {'train':>7} {'val':>7} {'test':>7} {'all':>7}"
    rows = [(str(i), name, *(counts(lists, classnames, p)[name] for p in PARTS)) for i, name in enumerate(classnames)]
    rows.append(("", "all", *(len(lists.get(p, [])) for p in PARTS)))
    return "\n".join([head, *(f"{i:>5}  {n[:40]:<40} {a:>7} {b:>7} {c:>7} {a + b + c:>7}" for i, n, a, b, c in rows)])
