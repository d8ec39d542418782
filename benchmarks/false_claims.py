#!/usr/bin/env python
"""How often equal methods are told apart, and a difference of 5 points is found, by `experiments.statistics`.

    OMP_NUM_THREADS=1 python -m cilmp.benchmarks.false_claims [--pairs 2000] [--json FILE]

Each pair is two methods of equal merit, over seeds and images of their population, that answer the same 300 images of
three classes (or 3 images of each of 100 patients): a logit is the class's signal, what the image (and its patient)
adds for both methods, what it adds for one, what the seed adds to one method (its signal, its class biases), and
noise. A false claim is p < 0.05 for a pair of equals. Beside it, what the percentile interval of a plain bootstrap of
seeds and units would have claimed.
"""

import argparse
import itertools

import numpy as np

from cilmp.experiments import statistics
from dassl.utils.errors import run_main
from dassl.utils.io import write_json

CLASSES, IMAGES, OF_A_PATIENT, BATCH = 3, 300, 3, 50
SEEDS = (3, 5, 10)
EFFECTS = {"no": 0.0, "small": 0.05, "large": 0.2}  # deviation of a seed's signal and biases, in logits
SIGNAL = 1.0
LABELS = np.arange(IMAGES) // OF_A_PATIENT % CLASSES


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=2000, help="of equal methods in each cell; as many with 5 points")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", default="", help="file for the rows")
    return p


def by_patients(rng, shape, units):
    """Standard normals over images, half their variance of the patient where images have one."""
    own = rng.standard_normal((*shape, IMAGES, CLASSES), dtype=np.float32)
    if units == "images":
        return own
    patients = rng.standard_normal((*shape, IMAGES // OF_A_PATIENT, CLASSES), dtype=np.float32)
    return (own + patients.repeat(OF_A_PATIENT, axis=-2)) / np.sqrt(np.float32(2))


def logits(rng, pairs, seeds, effect, units, gain):
    """(pairs, 2, seeds, IMAGES, CLASSES); the first method's signal is `gain` stronger."""
    truth = np.eye(CLASSES, dtype=np.float32)[LABELS]
    signal = SIGNAL + np.array([gain, 0], dtype=np.float32)[:, None] \
        + effect * rng.standard_normal((pairs, 2, seeds), dtype=np.float32)  # fmt: skip
    biases = effect * rng.standard_normal((pairs, 2, seeds, 1, CLASSES), dtype=np.float32)
    image = 0.7 * by_patients(rng, (pairs, 1, 1), units) + 0.4 * by_patients(rng, (pairs, 2, 1), units)
    noise = 0.3 * rng.standard_normal((pairs, 2, seeds, IMAGES, CLASSES), dtype=np.float32)
    return signal[..., None, None] * truth + biases + image + noise


def probabilities(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cell(rng, pairs, seeds, effect, units, gain):
    """{what: share of the pairs claimed}, and the mean spread of a method's accuracy over seeds."""
    group = np.arange(IMAGES) // (OF_A_PATIENT if units == "patients" else 1)
    claims = {name: 0 for name in (*statistics.FIGURES, "percentile")}
    spread, differences = [], []
    for start in range(0, pairs, BATCH):
        size = min(BATCH, pairs - start)
        p = probabilities(logits(rng, size, seeds, effect, units, gain)).reshape(-1, IMAGES, CLASSES)
        guesses = p.argmax(2)
        for name in statistics.FIGURES:
            values, slopes = statistics.figure(name, LABELS, guesses, p, group)
            values, slopes = values.reshape(size, 2, seeds), slopes.reshape(size, 2, seeds, -1)
            d, moved = values[:, 0] - values[:, 1], slopes[:, 0] - slopes[:, 1]
            claims[name] += sum(statistics.compare(*pair).p < statistics.LEVEL for pair in zip(d, moved))
            if name == "accuracy":
                claims["percentile"] += percentile(rng, d, moved)
                spread.append(values.std(2, ddof=1).mean())
                differences.append(d.mean())
    found = {name: n / pairs for name, n in claims.items()}
    return found | {"spread": float(np.mean(spread)), "difference": float(np.mean(differences))}


def percentile(rng, d, moved, draws=500):
    """Number of pairs whose 95 % percentile interval, of seeds and units drawn anew, leaves out 0."""
    seeds, units = moved.shape[1:]
    w = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds  # (draws, S)
    v = rng.multinomial(units, np.full(units, 1 / units), size=draws) - 1.0  # (draws, G)
    drawn = np.einsum("bs,ps->bp", w, d) + np.einsum("bs,bps->bp", w, np.einsum("bg,psg->bps", v, moved, optimize=True))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return int(((low > 0) | (high < 0)).sum())


def gain_of(points):
    """The signal that makes a method `points` more accurate than itself without, by bisection."""
    def right(gain):
        return (logits(np.random.default_rng(0), 60, 4, 0.0, "images", gain)[:, 0].argmax(-1) == LABELS).mean()

    low, high, before = 0.0, 2.0, right(0.0)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if 100 * (right(middle) - before) < points else (low, middle)
    return low


def main(argv=None):
    from tabulate import tabulate

    args = parser().parse_args(argv)
    gain, rows = gain_of(5), []
    for number, (units, effect, seeds) in enumerate(itertools.product(("images", "patients"), EFFECTS, SEEDS)):
        rng = np.random.default_rng([args.seed, number])
        equal = cell(rng, args.pairs, seeds, EFFECTS[effect], units, 0.0)
        better = cell(rng, args.pairs, seeds, EFFECTS[effect], units, gain)
        rows.append({"units": units, "seed effect": effect, "spread": equal["spread"], "seeds": seeds,
                     **{name: equal[name] for name in (*statistics.FIGURES, "percentile")},
                     "power": better["accuracy"], "at": better["difference"]})  # fmt: skip
        print(rows[-1], flush=True)
    shares = {*statistics.FIGURES, "percentile", "power"}
    cells = [[f"{100 * v:.1f}" if k in shares else f"{v:.1f}" if isinstance(v, float) else v for k, v in r.items()]
             for r in rows]  # fmt: skip
    print(f"\n{args.pairs} pairs a cell; percent of pairs")
    print(tabulate(cells, headers=list(rows[0]), tablefmt="github", disable_numparse=True))
    if args.json:
        write_json(rows, args.json)
    return 0


if __name__ == "__main__":
    run_main(main)
