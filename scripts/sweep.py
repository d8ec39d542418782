#!/usr/bin/env python
"""A grid of settings, each a row of one table; the runs go through the protocols' own driver.

    python scripts/sweep.py --output output/sweep --method CILMP --dataset phantom --seeds 1,2 \\
        TRAINER.CILMP.LOW_RANK_DIMENSION=4,8,16 OPTIM.LR=0.0025,0.01
The variables of the driver (DATA SHOTS BACKBONE LLM EPOCHS ...) hold here too. Finished runs are not repeated.
"""

import argparse
import itertools
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.utils.errors import ConfigError, UserError, run_main
from scripts.lib import table as tables
from scripts.lib.jobs import run_all
from scripts.lib.plan import jobs_of, protocol_folder
from scripts.lib.settings import Request, base_config

WARNING = ("Settings are compared on the test part: good for exploring; choose on other images before reporting "
           "a number.")  # fmt: skip


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", required=True, help="folder of the runs and of the table")
    p.add_argument("--protocol", default="few_shot", choices=("base2new", "few_shot", "full"))
    p.add_argument("--method", default="CILMP")
    p.add_argument("--dataset", default="")
    p.add_argument("--seeds", default="", help="e.g. 1,2,3")
    p.add_argument("grid", nargs="*", metavar="KEY=VALUE[,VALUE ...]")
    return p


def combinations(grid):
    """[{key: value}] of all combinations, the last key changing fastest."""
    axes = []
    for word in grid:
        key, equals, values = word.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"{word!r}: write KEY=VALUE[,VALUE ...], e.g. OPTIM.LR=0.0025,0.01")
        axes.append([(key, v) for v in values.split(",")])
    return [dict(chosen) for chosen in itertools.product(*axes)]


def main(argv=None):
    args = parser().parse_args(argv)
    jobs, base = [], None
    for settings in combinations(args.grid):
        pairs = [word for pair in settings.items() for word in pair]
        options = f"{os.environ.get('OPTS', '')} {shlex.join(pairs)}"
        request = Request(args.protocol, args.method, args.dataset, args.seeds.replace(",", " ").split(),
                          {**os.environ, "OPTS": options, "METHODS": args.method})  # fmt: skip
        base = base or base_config(request.plugins)
        for job in jobs_of(request, base, Path(args.output).absolute()):
            job.label = " ".join(f"{k.split('.')[-1]}={v}" for k, v in settings.items())
            jobs.append(job)
    failed = run_all(request, jobs)
    table = tables.build(request, jobs)
    if not table["rows"]:
        raise UserError("nothing finished, so there is no table; the reasons stand above")
    table["title"] += f", {args.method}"
    table["notes"].append(WARNING)
    folder = protocol_folder(Path(args.output).absolute(), request)
    tables.save(table, folder, "sweep")
    print("\n" + tables.terminal(table) + f"\n\nWritten: {folder / 'sweep.md'} (also .json, .csv, .tex)")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
