#!/usr/bin/env python
"""All runs of a protocol in one process, then their table.

    python scripts/driver.py PROTOCOL METHOD [DATASET] [SEED ...]      (scripts/<method>/<protocol>.sh calls this)

METHOD "all" compares every method (scripts/compare.sh).
No data set: the demo. Environment: DATA OUTPUT SHOTS CFG BACKBONE WEIGHTS LLM EPOCHS METHODS HPARAMS FORCE THREADS
PLUGIN OPTS, and TARGETS for cross_dataset. Finished runs are not repeated (FORCE=1 does). Exit code 1: a run failed.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.utils.errors import UserError, run_main
from dassl.utils.paths import output_root
from scripts.lib import table as tables
from scripts.lib.jobs import run_all
from scripts.lib.plan import jobs_of, protocol_folder
from scripts.lib.settings import Request, base_config

PROTOCOLS = ("base2new", "few_shot", "full", "cross_dataset")


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("protocol", choices=PROTOCOLS)
    p.add_argument("method")
    p.add_argument("dataset", nargs="?", default="")
    p.add_argument("seeds", nargs="*")
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    request = Request(args.protocol, args.method, args.dataset, args.seeds)
    folder = protocol_folder(output_root(), request)
    print(f"{request.protocol} on {request.dataset}: {', '.join(request.methods)}; backbone {request.backbone}")
    base = base_config(request.plugins)
    jobs = jobs_of(request, base, output_root())
    if request.protocol == "cross_dataset":
        refuse_overlaps(request)
    failed = run_all(request, jobs)
    table = tables.build(request, jobs)
    if not table["rows"]:
        raise UserError("nothing finished, so there is no table; the reasons stand above")
    stem = "compare" if args.method == "all" else "table"
    tables.save(table, folder, stem)
    print("\n" + tables.terminal(table))
    if request.protocol == "few_shot":
        from scripts.lib.plot import few_shot_curves

        few_shot_curves(table, folder / "curves.png")
    print(f"\nWritten: {folder / f'{stem}.md'} (also .json, .csv, .tex); runs and logs are beside it")
    return 1 if failed else 0


def refuse_overlaps(request):
    import datasets

    if not request.targets:
        raise UserError("cross_dataset needs TARGETS='SET1 SET2': the data sets to test on")
    if os.environ.get("ALLOW_OVERLAP", "") in ("", "0"):
        for target in request.targets:
            datasets.refuse_overlap(request.dataset, target)


if __name__ == "__main__":
    run_main(main, resume_hint="The same command goes on where it was: finished runs are kept.")
