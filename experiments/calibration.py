"""How far probabilities can be believed: calibration of runs, from what they predicted of test images.

Before temperature scaling only. Its temperature must come from the split's whole val part, of which runs keep nothing
yet (a few-shot run sees a few val images, and a run on val is another run), and never from test.
"""

import numpy as np

from dassl.evaluation.figures import BINS, ece

from .predictions import read

FIGURES = {"nll": "NLL", "brier": "Brier", "ece": "ECE", "classwise_ece": "class-wise ECE"}
MISSING = ("Before temperature scaling: its temperature needs a run's probabilities on the whole val part, which are "
           "not kept, and test images must not choose it.")  # fmt: skip


def nll(labels, probabilities):
    """Mean negative log-likelihood, nats; a probability that float32 could not hold counts as its smallest."""
    own = probabilities[np.arange(len(labels)), labels].astype(float)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())


def brier(labels, probabilities):
    """Mean squared distance from the one-hot truth, 0 to 2 (Brier 1950)."""
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1).mean())


def classwise_ece(labels, probabilities):
    """As `ece`, of each class's probability against its own frequency; mean over classes (Kull et al. 2019)."""
    return 100 * float(np.mean([_gap(p, labels == c) for c, p in enumerate(probabilities.T)]))


def _gap(confidence, hit):
    """Mean over images of |hits - confidence| of their bin, of BINS equal bins."""
    bins = np.clip(np.ceil(confidence.astype(float) * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=hit - confidence.astype(float), minlength=BINS)
    return float(np.abs(gaps).sum() / len(hit))


def figures(labels, probabilities):
    return {name: figure(labels, probabilities) for name, figure in
            zip(FIGURES, (nll, brier, ece, classwise_ece))}  # fmt: skip


def of_rows(records, data):
    """[{method, shots, part, seeds, nll, brier, ece, classwise_ece}] of a table's rows, means over the seeds whose
    predictions can be read (`pairs` says which can't)."""
    from dassl.utils.errors import UserError

    row_of, found = {row["group"]: row for row in data}, {}
    for r in records:
        if r["group"] not in row_of:
            continue
        try:
            p = read(r)
        except UserError:
            continue
        found.setdefault((r["group"], r["spec"]["part"]), []).append(figures(p.labels.astype(int), p.probabilities))
    order = {(g, part): (list(row_of).index(g), part) for g, part in found}
    return [{"method": row_of[g]["label"], "shots": row_of[g]["shots"], "part": part, "seeds": len(found[g, part]),
             **{name: float(np.mean([f[name] for f in found[g, part]])) for name in FIGURES}}
            for g, part in sorted(found, key=order.get)]  # fmt: skip


def markdown(rows):
    """A Markdown table of `of_rows`; "" where there are none."""
    if not rows:
        return ""
    header = ["method", "shots", "part", "seeds", *FIGURES.values()]
    lines = ["Calibration (less is better):", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        shots = "all" if row["shots"] < 1 else row["shots"]
        values = [f"{row['nll']:.3f}", f"{row['brier']:.3f}", f"{row['ece']:.1f}", f"{row['classwise_ece']:.1f}"]
        lines.append("| " + " | ".join(map(str, (row["method"], shots, row["part"], row["seeds"], *values))) + " |")
    return "\n".join([*lines, "", MISSING]) + "\n"
