#!/usr/bin/env python
"""How often prediction sets hold the true class, over random calibration splits, from the predictions of runs.

    python -m cilmp.benchmarks.coverage OUTPUT [--level 0.9] [--splits 100] [--json FILE]

Of each training run below OUTPUT, val images that chose nothing and test images are one pool that the model was not
trained on. Its patients (images where none are known) are drawn anew into a calibration part of val's size and a part
that is judged. Whole scores (what `cilmp calibrate` uses) and randomised ones, sets empty where they are so, the
coverage a mean over patients. Expected with n calibration patients: from `level` to level + 1 / (n + 1) for randomised
scores and lac, at least `level` otherwise; class by class with the n of each class.
"""

import argparse
from pathlib import Path

import numpy as np

from cilmp.experiments.calibration import free_of_choice
from cilmp.experiments.collect import records
from cilmp.experiments.predictions import Predictions, read
from cilmp.inference import conformal
from dassl.evaluation.figures import WHOLE_VAL
from dassl.utils.errors import MissingFile, UserError, run_main
from dassl.utils.io import write_json

KINDS = [(method, random) for method in conformal.METHODS for random in (False, True)]


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("output", help="folder with finished runs that kept their whole val part")
    p.add_argument("--level", type=float, default=0.9)
    p.add_argument("--splits", type=int, default=100)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--calibration", type=int, default=0, help="patients to calibrate on (default: as many as val has)")
    p.add_argument("--json", default="", help="file for the rows")
    return p


def pooled(val, test):
    """Predictions of both parts; the names only tell images apart."""
    units = [p.groups if len(p.groups) else np.char.add(part, p.names) for part, p in (("val/", val), ("test/", test))]
    arrays = [np.concatenate(pair) for pair in ((val.labels, test.labels), (val.predictions, test.predictions),
                                                (val.probabilities, test.probabilities))]  # fmt: skip
    return Predictions(np.arange(len(arrays[0])), *arrays, np.concatenate(units))


def one_split(pool, n, level, kind, rng):
    """(coverage, set size, share of empty sets, calibration patients of the smallest class) of one random split."""
    method, random = kind
    labels, units = pool.labels.astype(int), np.unique(pool.units, return_inverse=True)[1]
    own = np.isin(units, rng.permutation(units.max() + 1)[:n])
    a = np.flatnonzero(own)
    a = a[conformal.one_each(units[a], rng)]
    b, u = np.flatnonzero(~own), rng.random(len(labels)) if random else None
    part = lambda i: None if u is None else u[i]  # noqa: E731
    classes = [str(c) for c in range(pool.probabilities.shape[1])]
    q = conformal.thresholds(method, level, labels[a], pool.probabilities[a], classes, part(a))
    inside = conformal.sets(method, q, pool.probabilities[b], part(b), never_empty=False)
    weight = 1 / np.bincount(units[b])[units[b]]
    mean = lambda values: float(np.average(values, weights=weight))  # noqa: E731
    return mean(inside[np.arange(len(b)), labels[b]]), mean(inside.sum(1)), mean(~inside.any(1)), \
        np.bincount(labels[a], minlength=len(classes)).min()  # fmt: skip


def judge(pool, n, level, splits, seed):
    """A row of each kind of set."""
    rows = []
    for kind in KINDS:
        method, random = kind
        if random and method in ("lac", "class"):  # its scores are not randomised
            continue
        rng = np.random.default_rng(seed)
        try:
            coverage, size, empty, least = zip(*(one_split(pool, n, level, kind, rng) for _ in range(splits)))
        except conformal.TooFew as error:
            rows.append({"method": method, "randomised": random, "why_not": str(error)})
            continue
        error, exact = float(np.std(coverage, ddof=1) / np.sqrt(splits)), random or method in ("lac", "class")
        highest = level + 1 / ((np.mean(least) if method == "class" else n) + 1) if exact else 1.0
        mean = float(np.mean(coverage))
        rows.append({"method": method, "randomised": random, "coverage": mean, "error": error,
                     "highest": float(highest), "size": float(np.mean(size)), "empty": float(np.mean(empty)),
                     "as_promised": bool(level - 2 * error <= mean <= highest + 2 * error)})  # fmt: skip
    return rows


def line(facts, row, level):
    place = [facts["set"], facts["run"], str(facts["n"]), row["method"] + (", randomised" if row["randomised"] else "")]
    if "why_not" in row:
        return f"| {' | '.join([*place, 'too few', '', '', '', ''])} |"
    low, high = 100 * level, 100 * row["highest"]
    figures = [f"{100 * row['coverage']:.1f} ± {100 * row['error']:.1f}",
               f"{low:.1f} to {high:.1f}" if row["highest"] < 1 else f"at least {low:.1f}",
               "yes" if row["as_promised"] else "NO", f"{row['size']:.2f}", f"{100 * row['empty']:.1f}"]  # fmt: skip
    return f"| {' | '.join(place + figures)} |"


def main(argv=None):
    args = parser().parse_args(argv)
    found = [r for r in records(Path(args.output)) if not r["spec"]["source"] and (r["folder"] / WHOLE_VAL).is_file()]
    if not found:
        raise MissingFile(f"no run in {args.output} that kept its whole val part ({WHOLE_VAL})")
    header = ["set", "run", "n", "sets", "in the set, %", "expected", "as promised", "set size", "empty, %"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    kept = []
    for r in found:
        try:
            val, test = free_of_choice(r["folder"] / WHOLE_VAL), read(r)
        except UserError as error:
            print(f"{r['folder']}: left out - {error}")
            continue
        n = args.calibration or len(np.unique(val.units))
        facts = {"set": r["dataset"], "run": f"{r['method']}, {r['shots']} shots, seed {r['seed']}", "n": n}
        for row in judge(pooled(val, test), n, args.level, args.splits, args.seed):
            kept.append(facts | row)
            print(line(facts, row, args.level), flush=True)
    if args.json:
        write_json({"level": args.level, "splits": args.splits, "rows": kept}, args.json)
    return 0


if __name__ == "__main__":
    run_main(main)
