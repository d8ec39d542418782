#!/usr/bin/env python
"""Paired differences of a method's settings from one of them, with 95 % intervals, by the predictions of finished runs.

    python -m cilmp.benchmarks.paired OUTPUT
    python -m cilmp.benchmarks.paired OUTPUT --method CoOp --baseline TRAINER.COOP.N_CTX=4

A table for each protocol, part, data set, backbone, number of shots and LLM. Pairs are runs of one seed (the same few
shots) judged on the same images. The interval is a percentile bootstrap in which seeds and test images are drawn with
replacement, each by itself: it says what other shots and other images of the same source would give. Few seeds make
it too narrow (ten: by a twentieth), one seed gives none; of many comparisons one in twenty leaves out 0 by chance.
"""

import argparse
import ast
from collections import defaultdict

import numpy as np

from cilmp.experiments.collect import records
from cilmp.experiments.predictions import read
from dassl.utils.errors import UserError, run_main

PLACE = ("protocol", "part", "dataset", "backbone", "shots", "llm")


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("output", help="folder of results")
    p.add_argument("--method", default="CILMP")
    p.add_argument("--baseline", nargs="+", metavar="KEY=VALUE", help="settings of the row that others meet",
                   default=["TRAINER.CILMP.KNOWLEDGE=real", "TRAINER.CILMP.LAYERS=()"])  # fmt: skip
    p.add_argument("--seeds", nargs="*", type=int, default=[], help="only these; default: all there are")
    p.add_argument("--draws", type=int, default=10000)
    return p


def literal(text):
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple) else value


def matrix(runs, seeds):
    """(seeds, images) of 0 and 1, images in the order of their names."""
    found = [read(runs[seed]) for seed in seeds]
    if any(p.images != found[0].images for p in found):
        raise UserError(f"{runs[seeds[0]]['folder'].parents[1]}: its seeds were tested on different images")
    return np.array([p.predictions == p.labels for p in found], dtype=float)


def interval(differences, draws, seed=0):
    """(low, high) of the mean of a (seeds, images) matrix, both axes resampled."""
    rng, (S, N) = np.random.default_rng(seed), differences.shape
    by_seed = rng.multinomial(S, np.full(S, 1 / S), size=draws) / S
    by_image = rng.multinomial(N, np.full(N, 1 / N), size=draws) / N
    means = np.einsum("ds,sn,dn->d", by_seed, differences, by_image, optimize=True)
    return np.percentile(means, [2.5, 97.5])


def rows_of(runs, wanted, draws):
    """[[setting, seeds, accuracy, standard deviation, difference, low, high]], the baseline (setting "") first."""
    groups = defaultdict(dict)
    for r in runs:
        groups[r["group"]][r["seed"]] = r
    settings = {g: next(iter(by_seed.values()))["spec"]["settings"] for g, by_seed in groups.items()}
    base = [g for g, s in settings.items() if all(s.get(k) == v for k, v in wanted.items())]
    if len(base) != 1:
        raise UserError(f"{len(base)} rows have the settings of --baseline, say more or fewer: {wanted}")
    rows = []
    for group in groups:
        seeds = sorted(groups[group].keys() & groups[base[0]].keys())
        if not seeds:
            continue
        ours, theirs = matrix(groups[group], seeds), matrix(groups[base[0]], seeds)
        differ = [k for k in settings[group] if k != "SEED" and settings[group][k] != settings[base[0]].get(k)]
        words = ", ".join(f"{k.split('.')[-1]} {plain(settings[group][k])}" for k in differ)
        each = 100 * ours.mean(1)
        rows.append([words, len(seeds), each.mean(), each.std(), 100 * (ours - theirs).mean(),
                     *(100 * interval(ours - theirs, draws))])  # fmt: skip
    return sorted(rows, key=lambda row: row[0])


def plain(value):
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def main(argv=None):
    args = parser().parse_args(argv)
    wanted = {key: literal(value) for key, _, value in (word.partition("=") for word in args.baseline)}
    places = defaultdict(list)
    for r in records(args.output):
        if r["spec"]["method"] == args.method and (not args.seeds or r["seed"] in args.seeds):
            places[tuple(r["spec"][name] for name in PLACE)].append(r)
    if not places:
        raise UserError(f"{args.output}: no finished run of {args.method}")
    left_out = 0
    for place, runs in places.items():
        print("\n" + ", ".join(f"{name} {value}" for name, value in zip(PLACE, place) if value != "") + "\n")
        try:
            rows = rows_of(runs, wanted, args.draws)
        except UserError as error:
            print(f"left out: {error}")
            left_out += 1
            continue
        print("| setting | seeds | accuracy | difference | 95 % |\n|---|---|---|---|---|")
        for words, n, mean, deviation, difference, low, high in rows:
            between = f"{low:+.1f} to {high:+.1f}" if n > 1 else "-"
            apart = f"{difference:+.1f} | {between}" if words else "- | -"
            print(f"| {words or 'baseline'} | {n} | {mean:.1f} ± {deviation:.1f} | {apart} |")
    return int(left_out == len(places))


if __name__ == "__main__":
    run_main(main)
