#!/usr/bin/env python
"""What can be said against a data set: missing or broken files, copies and patients in two partitions, balance.

    python scripts/check_dataset.py mydata --root data
    python scripts/check_dataset.py data/BUSI/split_BUSI.json
    python scripts/check_dataset.py split_RETINA.json          # without its images: what the text alone tells

Exit code 0: nothing was found. 1: something was found. 2: a bad call. The last line says "clean" only if everything
could be looked at; else it names what was not checked (groups without ids, images that are not here).
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.utils.errors import run_main
from dassl.utils.paths import slug
from datasets.check import check
from datasets.locate import data_root, describe
from datasets.prepare.files import need_root
from datasets.prepare.run import writing_to


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset", metavar="NAME|FILE", help="a data set under the root, or a split file")
    p.add_argument("--root", default="", help="where data sets live (default: $DATA, else data/ here)")
    p.add_argument("--no-pixels", action="store_true", help="judge the text only, open no image")
    p.add_argument("--group-regex", default="", help="finds the patient id in a path; the first bracket counts")
    p.add_argument("--picture", help="where the page goes (default: $OUTPUT/check/<name>.png, else "
                   "output/check/<name>.png here)")
    p.add_argument("--no-picture", action="store_true")
    p.add_argument("--workers", type=int, help="processes (default: all cores)")
    args = p.parse_args(argv)
    need_root(data_root(args.root))
    report = check(args.dataset, args.root, not args.no_pixels, args.group_regex, args.workers)
    print(report.text())
    if report.split and not args.no_picture:
        from datasets.picture import draw

        path = Path(args.picture or Path(os.environ.get("OUTPUT") or "output", "check", f"{slug(report.name)}.png"))
        note = describe(report.name, report.split.classnames, report.split.path).source_note
        with writing_to(path.parent):
            draw(report.split, report.base, path, report.name, note)
        print(f"page:  {path.absolute()}")
    print(f"{report.name}: {report.verdict()}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a class name need not be in the terminal's letters
    run_main(main)
