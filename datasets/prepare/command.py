"""Raw images in, a split out: DATA/<name>/ with split.json, groups.csv, dataset.json and the images (links).

    cilmp prepare folder --raw ~/my_images --name mydata   # <class>/<image>, or train|val|test/...
    cilmp prepare csv --raw labels.csv --name mydata       # path,label[,split][,patient_id]
    cilmp prepare BUSI --raw ~/Downloads/Dataset_BUSI_with_GT --root data
    cilmp prepare BUSI --download                            # where to get it, or getting it

Official partitions are kept; otherwise images are split 70/10/20 by class, seeded, with all images of one patient
(lesion, slide ...) in one part. `val` is never part of the test set. Stopped half way, the same command goes on.
"""

import math
import re
from pathlib import Path
from shlex import quote

from cilmp.datasets.locate import ROOT_HELP, canonical, data_root, prepare_command
from cilmp.datasets.prepare import own
from cilmp.datasets.prepare.files import need_root
from cilmp.datasets.prepare.run import Options, counts, make, table
from cilmp.datasets.split_file import PARTS, safe_path
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import UserError
from dassl.utils.flags import Parser

OWN = ("folder", "csv", "dicom")


def arguments(argv=None):
    p = Parser("cilmp prepare", __doc__)
    p.add_argument("dataset", metavar="NAME", help="folder, csv, dicom, or a public set: " + ", ".join(TABLE.sets()))
    p.add_argument("--raw", metavar="DIR", help="folder (or table) with the unpacked download")
    p.add_argument("--root", default="", metavar="DIR", help=ROOT_HELP)
    p.add_argument("--name", help="name of your own set (folder, csv, dicom)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of the random partition")
    p.add_argument("--ratios", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="default 70 10 20")
    p.add_argument("--group-regex", metavar="REGEX",
                   help="finds the patient id in a path: its brackets, or all it matches")
    p.add_argument("--groups", metavar="FILE", help="table file,group (default: groups.csv in the raw "
                   "folder); file names that fit one image are enough")
    p.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    p.add_argument("--resize", type=int, default=0, metavar="N", help="shrink copies to N pixels (shorter side)")
    p.add_argument("--modality", metavar="WORDS", help='phrase for the LLM question, e.g. "chest X-ray image"')
    p.add_argument("--note", metavar="WORDS", help="words that travel with every table of this set")
    p.add_argument("--lateral", action="store_true", help="left and right mean something: never flip")
    p.add_argument("--on-bad-image", choices=("error", "skip"), default="error",
                   help="unreadable images: stop and name them, or leave them out")
    p.add_argument("--no-verify", action="store_true", help="do not open every image first")
    p.add_argument("--group-duplicates", action="store_true",
                   help="your own set: keep near duplicates in one part (public sets without ids: always)")
    p.add_argument("--no-duplicates", action="store_true", help="public sets: do not")
    p.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    p.add_argument("--download", nargs="?", const=True, metavar="WHERE",
                   help="fetch the raw data where it is open, else say how; WHERE replaces the known address: "
                   "zenodo:RECORD, kaggle:OWNER/NAME, gdrive:FILE-ID or url:ADDRESS")
    return p.parse_args(argv)


def main(argv=None):
    args = arguments(argv)
    name = args.dataset if args.dataset in OWN else canonical(args.dataset)
    if name not in OWN and name not in TABLE:
        from cilmp.datasets.locate import not_found

        raise not_found(args.dataset, args.root)
    if args.download:
        from cilmp.datasets.prepare.download import fetch

        args.raw = fetch(TABLE.get(name), args.raw, "" if args.download is True else args.download)
        if args.raw is None:
            return 0
    if not args.raw:
        raise UserError(f"{name}: --raw is missing, the folder with the unpacked download: "
                        f"{prepare_command(name, data_root(args.root))}")
    need_root(data_root(args.root))
    how = options(args)
    raw, split_path, facts = describe(name, args)
    lists = make(raw, raw_folder(args.raw), split_path, how, facts)
    report(name, raw, lists, split_path, args)
    return 0


def options(args):
    if args.ratios and not (all(0 <= r < math.inf for r in args.ratios) and args.ratios[0] > 0 < args.ratios[2]):
        raise UserError(f"--ratios {' '.join(map(str, args.ratios))}: three shares, those of train and test above 0")
    if args.group_regex and args.groups:
        raise UserError("--group-regex and --groups: one of them says which images belong together")
    ratios = tuple(r / sum(args.ratios) for r in args.ratios) if args.ratios else None
    if args.resize < 0:
        raise UserError(f"--resize {args.resize}: a number of pixels above 0")
    return Options(args.seed, ratios, args.copy, args.resize, not args.no_verify, args.on_bad_image,
                   not args.no_duplicates, args.workers, progress=True)


def raw_folder(raw):
    path = Path(raw).expanduser().absolute()
    return path if path.is_dir() else path.parent


def describe(name, args):
    """(Raw, path of the split to write, facts for dataset.json)."""
    facts = {key: value for key, value in (("modality", args.modality), ("note", args.note),
                                           ("lateral", args.lateral or None)) if value}
    if name in OWN:
        if not args.name:
            raise UserError(f"{name}: --name is missing, the name your data set will have")
        if not re.fullmatch(r"[\w.\- ]+", args.name):
            raise UserError(f"--name {args.name!r}: letters, digits, blanks, '.', '_' and '-' only")
        if canonical(args.name) in TABLE:
            raise UserError(f"--name {args.name!r} is a public set's name; choose another")
        read = own.table if name == "csv" else own.class_folders
        raw = read(args.raw, args.group_regex, args.groups)
        raw.duplicates = args.group_duplicates
        return raw, data_root(args.root) / safe_path(args.name, "--name") / "split.json", facts
    from cilmp.datasets.prepare.table import prepare

    layout, raw = TABLE[name].layouts[0], prepare(name, args.raw)
    if args.group_regex or args.groups:
        raw.find_groups(raw_folder(args.raw), args.group_regex, args.groups)
    return raw, data_root(args.root) / layout.folder / layout.split, facts


def report(name, raw, lists, split_path, args):
    """What was made, from which key, and what differs from the published numbers."""
    print(table(lists, raw.classnames))
    official = sorted({im.part for im in raw.images} - {""})
    print(f"partition: {'official ' + ', '.join(official) if official else 'stratified, seed ' + str(args.seed)}"
          + (", val held out of train" if official and "val" not in official and lists["val"] else ""))
    print(f"grouped by: {raw.grouping()}")
    for remark in raw.remarks:
        print(f"note: {remark}")
    for line in (*raw.warnings, *raw.doubts(), *differing(name, raw, lists)):
        print(f"warning: {line}")
    print(f"written: {split_path}")
    used = name if name in TABLE else split_path.parent.name
    print(f"use it:  cilmp run few_shot CILMP {quote(used)} --data {quote(str(split_path.parent.parent))}")


def differing(name, raw, lists):
    """Lines about counts that are not the published ones."""
    published = TABLE[name].counts if name in TABLE else ()
    found = [sum(counts(lists, raw.classnames, p)[c] for p in PARTS) for c in raw.classnames]
    return [f"{c}: {n} images, published {p}" for c, n, p in zip(raw.classnames, found, published) if n != p]

