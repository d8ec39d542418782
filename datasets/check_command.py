"""What can be said against a data set: missing or broken files, copies and patients in two partitions, balance.

    cilmp check mydata --root data
    cilmp check data/BUSI/split_BUSI.json
    cilmp check split_RETINA.json          # without its images: what the text alone tells

Exit code 0: nothing was found. 1: something was found. 2: a bad call. The last line says "clean" only if everything
could be looked at; else it names what was not checked (groups without ids, images that are not here).
"""

import os
from pathlib import Path

from cilmp.datasets.check import check
from cilmp.datasets.locate import ROOT_HELP, data_root, describe
from cilmp.datasets.prepare.files import need_root
from cilmp.datasets.prepare.run import writing_to
from dassl.utils.flags import Parser
from dassl.utils.paths import slug


def main(argv=None):
    p = Parser("cilmp check", __doc__)
    p.add_argument("dataset", metavar="NAME|FILE", help="a data set under the root, or a split file")
    p.add_argument("--root", default="", metavar="DIR", help=ROOT_HELP)
    p.add_argument("--no-pixels", action="store_true", help="judge the text only, open no image")
    p.add_argument("--group-regex", default="", metavar="REGEX",
                   help="finds the patient id in a path; the first bracket counts")
    p.add_argument("--picture", metavar="FILE",
                   help="where the page goes (default: $OUTPUT/check/<name>.png, else output/check/<name>.png here)")
    p.add_argument("--no-picture", action="store_true", help="write no page")
    p.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    args = p.parse_args(argv)
    need_root(data_root(args.root))
    report = check(args.dataset, args.root, not args.no_pixels, args.group_regex, args.workers)
    print(report.text())
    if report.split and not args.no_picture:
        from cilmp.datasets.picture import draw

        path = Path(args.picture or Path(os.environ.get("OUTPUT") or "output", "check", f"{slug(report.name)}.png"))
        note = describe(report.name, report.split.classnames, report.split.path).source_note
        with writing_to(path.parent):
            draw(report.split, report.base, path, report.name, note)
        print(f"page:  {path.absolute()}")
    print(f"{report.name}: {report.verdict()}")
    return 1 if report.findings else 0

