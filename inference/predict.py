"""cilmp predict RUN IMAGE|FOLDER|CSV ...: what a finished run says of new images."""

import sys
from pathlib import Path

from cilmp.experiments.commands import parser_of
from dassl.utils.errors import UserError

SKIPPED = 3  # exit code where images could not be read
DESCRIPTION = """What a finished run, or a bundle, says of new images.

    cilmp predict output/few_shot/BUSI/CILMP/.../seed1/train_all scan.dcm more_scans/ --out answers.csv

An image is any file that is one by its content (DICOM too), a folder all images in it, a table (.csv, .tsv) the files
of its column image, path or file. Images that can't be read are named and left out; the exit code is then 3.
"""


def parser():
    p = parser_of("predict", DESCRIPTION)
    p.add_argument("run", metavar="RUN", help="folder of a finished run (it holds results.json) or of a bundle, "
                   "or hub:USER/NAME of one")  # fmt: skip
    p.add_argument("images", nargs="+", metavar="IMAGE|FOLDER|CSV", help="as many as you like")
    p.add_argument("--out", default="", metavar="FILE", help="write .csv, .json or .jsonl (default: print a table)")
    p.add_argument("--column", default="", metavar="NAME", help="of a table: the column that holds the files")
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at once")
    add_places(p)
    return p


def add_places(p, device=True):
    """Words for where a run is used: the device, and what may lie elsewhere than where it was trained."""
    if device:
        p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: CUDA where it is")
    p.add_argument("--weights", default="", metavar="FILE", help="the backbone's weights, where they lie elsewhere now")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="the run's own method, likewise")


def main(argv=None):
    args = parser().parse_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: give a whole number above 0")
    from . import inputs, rows

    if args.out:
        rows.check_ending(args.out)
    files = inputs.files_of(args.images, args.column)
    if args.out and Path(args.out).resolve() in {Path(p).expanduser().resolve() for p in (*args.images, *files)}:
        raise UserError(f"--out {args.out} is one of the files to read, which it would replace: name another")

    from .model import load

    model = load(args.run, args.device, args.weights, args.plugin)
    if model.transductive:
        print(f"{model.method} answers for all images at once: each answer depends on the other "
              f"{len(files) - 1}", file=sys.stderr)  # fmt: skip
    skipped = []
    places, logits, features = model.outputs(
        files, args.batch_size, lambda place, error: skipped.append((files[place], str(error))),
        features=model.calibration is not None, progress=True,
    )  # fmt: skip
    for _, why in skipped:
        print(f"skipped: {why}", file=sys.stderr)
    if not places:
        print(f"error: none of the {len(files)} images can be read, so there is nothing to write", file=sys.stderr)
        return SKIPPED
    read = [files[place] for place in places]
    say_pages(read)
    columns = {"image": read, **rows.columns_of(model, logits, features)}
    if args.out:
        facts = {"run": str(model.folder), "method": model.method, "classes": model.classes}
        rows.write(args.out, columns, facts, skipped)
        print(f"{len(read)} images. Written: {args.out}")
    else:
        print(as_text(columns))
    return SKIPPED if skipped else 0


def say_pages(files):
    """Of files with several pages, which one was read."""
    from .images import pages

    for file in files:
        if (number := pages(file)) > 1:
            print(f"{file} has {number} pages: the first is used", file=sys.stderr)


def as_text(columns):
    from tabulate import tabulate

    from .rows import safe

    short = lambda v: f"{v:.4f}" if isinstance(v, float) else safe(v)  # noqa: E731
    cells = {name: [short(value) for value in values] for name, values in columns.items()}
    return tabulate(cells, headers="keys", disable_numparse=True)
