"""The steps that follow once a preparation knows its images: verify, partition, place, write, tell."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import read_json, write_json, write_text
from datasets import duplicates, partition
from datasets.beside import facts_path
from datasets.prepare.place import place_all, target_path
from datasets.scan import scan
from datasets.split_file import PARTS, parse_split, write_split


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
    raw = _verified(raw, options)
    groups = _group_names(raw, raw_folder, options)
    classes = [im.classname for im in raw.images]
    ratios = options.ratios or raw.ratios
    parts = partition.complete([im.part for im in raw.images], classes, groups, ratios, options.seed)
    if leaking := partition.leaks(parts, [im.group for im in raw.images]):
        raw.remarks.append(f"{len(leaking)} groups are in two official partitions, first {next(iter(leaking))!r}")
    files = [target_path(im, raw_folder, split_path.parent, options.resize) for im in raw.images]
    lists = _lists(raw, files, parts)
    parse_split(lists, split_path)
    new = place_all([(im.source, split_path.parent / file) for im, file in zip(raw.images, files)],
                    "copy" if options.copy else "link", options.resize, options.workers, options.progress,
                    anew=_resized_before(split_path) not in (None, options.resize))
    _write_groups(raw, files, split_path.parent)
    write_json({**(facts or {}), "preparation": _record(raw, raw_folder, lists, ratios, options)},
               facts_path(split_path), indent=2)
    write_split(lists, split_path)
    raw.remarks.append(f"{new} images placed, {len(files) - new} were there")
    return lists


def _verified(raw, options):
    """The Raw without unreadable images, or an error that names the first; near duplicates become groups."""
    close = raw.duplicates and options.duplicates and not any(im.group for im in raw.images)
    if not (options.verify or close):
        return raw
    files = [str(im.source) for im in raw.images]
    seen = scan(files, options.workers, "reading", options.progress)
    bad = [f for f in files if seen[f].error]
    if bad and options.on_bad_image != "skip":
        raise UserError(f"{len(bad)} of {len(files)} images can't be read, first: {seen[bad[0]].error}; "
                        "mend them, or leave them out with --on-bad-image skip")
    if bad:
        raw.remarks.append(f"left out {len(bad)} unreadable images, first: {seen[bad[0]].error}")
        raw.images = [im for im in raw.images if not seen[str(im.source)].error]
    return _joined(raw, {f: s for f, s in seen.items() if not s.error}) if close else raw


def _joined(raw, seen):
    """The Raw with clusters of near duplicates as groups. A cluster of more than a tenth of the images is no copy
    but a template (an empty frame, a test picture): it stays apart, and the user is told."""
    cluster = duplicates.clusters(seen, duplicates.alike_pairs(seen))
    sizes = Counter(cluster.values())
    most = max(2, len(seen) // 10)
    names = [cluster[str(im.source)] for im in raw.images]
    raw = raw.with_groups([Path(n).name if 1 < sizes[n] <= most else "" for n in names])
    raw.key = f"near duplicates (perceptual hash), {sum(1 < s <= most for s in sizes.values())} clusters"
    if too_large := [s for s in sizes.values() if s > most]:
        raw.remarks.append(f"{max(too_large)} images look like one another, too many to be copies: not kept together")
    return raw


def _group_names(raw, raw_folder, options):
    """A group for each image: its id, or a name of its own that no id can equal."""
    return [f"id {im.group}" if im.group else f"one {_below(im.source, raw_folder)}" for im in raw.images]


def _below(source, folder):
    source = Path(source)
    return source.relative_to(folder).as_posix() if source.is_relative_to(folder) else source.as_posix()


def _resized_before(split_path):
    """--resize of the preparation whose images lie there; None if none has finished."""
    path = facts_path(split_path)
    return read_json(path).get("preparation", {}).get("resize") if path.is_file() else None


def _lists(raw, files, parts):
    """{part: [[file, label, name]]}, sorted by label, then file."""
    label = {name: i for i, name in enumerate(raw.classnames)}
    lists = {part: [] for part in PARTS}
    for image, file, part in zip(raw.images, files, parts):
        lists[part].append([file, label[image.classname], image.classname])
    return {part: sorted(rows, key=lambda row: (row[1], row[0])) for part, rows in lists.items()}


def _write_groups(raw, files, folder):
    """groups.csv beside the split: file,group of the images that have one."""
    rows = sorted((file, im.group) for im, file in zip(raw.images, files) if im.group)
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("file", "group"), *rows])
        write_text(text.getvalue(), folder / "groups.csv")


def _record(raw, raw_folder, lists, ratios, options):
    return {"raw": Path(raw_folder).name, "seed": options.seed, "ratios": list(ratios), "group_key": raw.key or "none",
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
