"""How far probabilities can be believed: calibration of runs, before and after temperature scaling.

    p_T = softmax(log p / T)            T minimises the negative log-likelihood (Guo et al. 2017, 1706.04599)

T is fitted on what the run that trained keeps of the split's whole val part, without the patients of images that chose
the model; never on test. All images of a patient count. A part that is tested only (base2new's new classes, another
data set) takes the temperature of its training run: what a user of that run would have.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from dassl.evaluation.figures import BINS, WHOLE_VAL, ece
from dassl.utils.errors import UserError
from dassl.utils.io import read_json_object, sha256_file

from .formats import grid, md
from .predictions import of_file, read

FIGURES = {"nll": "NLL", "brier": "Brier", "ece": "ECE", "classwise_ece": "class-wise ECE"}
LIMITS = (0.02, 50.0)  # of a temperature; where val is separated without a mistake, NLL has no minimum
FILE = "calibration.json"  # of `cilmp calibrate`, in a run's folder
TINY = float(np.finfo(np.float32).tiny)


def nll(labels, probabilities):
    """Mean negative log-likelihood, nats; a probability that float32 could not hold counts as its smallest."""
    own = probabilities[np.arange(len(labels)), labels].astype(float)
    return float(-np.log(np.maximum(own, TINY)).mean())


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


def scaled(probabilities, temperature):
    """(n, C) probabilities at a temperature; above 1 they are less sure."""
    from scipy.special import softmax

    return softmax(np.log(np.maximum(np.asarray(probabilities, dtype=float), TINY)) / temperature, axis=1)


def temperature(labels, probabilities):
    """The temperature of least NLL, within LIMITS: NLL is convex in 1 / T, so the search finds it."""
    from scipy.optimize import minimize_scalar

    loss = lambda x: nll(labels, scaled(probabilities, np.exp(x)))  # noqa: E731
    return float(np.exp(minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded", options={"xatol": 1e-5}).x))


def free_of_choice(path):
    """Predictions of the whole val part without images that chose the model, and others of their patients.

    Raises:
        UserError: there is no such file, it is broken, or nothing is left.
    """
    if not Path(path).is_file():
        raise UserError(f"no {Path(path).name}")
    found, more = of_file(path)
    used = more.get("used", np.zeros(len(found.names), dtype=bool))
    left = ~(used | np.isin(found.groups, found.groups[used])) if len(found.groups) else ~used
    if not left.any():
        raise UserError("every val image chose the model")
    return found.of(left)


@lru_cache(maxsize=4096)
def _fitted(path, _changed):
    """(temperature, images, patients) of a predictions_whole_val.npz."""
    p = free_of_choice(path)
    return temperature(p.labels.astype(int), p.probabilities), len(p.names), len(np.unique(p.units))


def fitted(folder):
    """(temperature, images, patients) of the run that trained there; UserError says why there is none."""
    path = Path(folder) / WHOLE_VAL
    return _fitted(path, path.stat().st_mtime_ns if path.is_file() else 0)


def of_rows(records, data):
    """[{method, shots, part, seeds, nll, brier, ece, classwise_ece, temperature, scaled, borrowed, why, sets}] of a
    table's rows, means over the seeds whose predictions can be read (`pairs` says which can't).

    scaled: the figures at the temperatures; None, with the reason in `why`, where a seed has none. borrowed: whether
    they are those of a training on other classes or images. sets: {kind, coverage, size} of `cilmp calibrate`, or None.
    """
    row_of, trained = {row["group"]: row for row in data}, {(r["key"], r["seed"]): r for r in records}
    found = {}
    for r in records:
        if r["group"] in row_of:
            try:
                p = read(r)
            except UserError:
                continue
            found.setdefault((r["group"], r["spec"]["part"]), []).append((*_of_run(r, p, trained), sets_of(r)))
    order = {(g, part): (list(row_of).index(g), part) for g, part in found}
    return [{"method": row_of[g]["label"], "shots": row_of[g]["shots"], "part": part, "seeds": len(found[g, part]),
             **_means([run[:-1] for run in found[g, part]]), "sets": _sets([run[-1] for run in found[g, part]])}
            for g, part in sorted(found, key=order.get)]  # fmt: skip


def _of_run(record, p, trained):
    """(figures, figures at its temperature or None, temperature, borrowed, why not) of one run."""
    labels, source = p.labels.astype(int), record["spec"]["source"]
    before, home = figures(labels, p.probabilities), record
    if source:
        home = trained.get((source.get("key", record["group"]), record["seed"]))
    try:
        if home is None:
            raise UserError("its training run is not here")
        t = fitted(home["folder"])[0]
    except UserError as error:
        return before, None, None, bool(source), str(error)
    return before, figures(labels, scaled(p.probabilities, t)), t, bool(source), ""


def _means(runs):
    before, after, temperatures, borrowed, why = zip(*runs)
    mean = lambda rows: {name: float(np.mean([row[name] for row in rows])) for name in FIGURES}  # noqa: E731
    if reasons := sorted(set(filter(None, why))):
        return mean(before) | {"temperature": None, "scaled": None, "borrowed": borrowed[0], "why": "; ".join(reasons)}
    return mean(before) | {"temperature": float(np.exp(np.mean(np.log(temperatures)))), "scaled": mean(after),
                           "borrowed": borrowed[0], "why": ""}  # fmt: skip


def sets_of(record):
    """(kind of sets, {coverage, size ...} on its own test images) by calibration.json of a run that trained; None where
    `cilmp calibrate` did not make them, or of other results than these."""
    path = Path(record["folder"], FILE)
    if record["spec"]["source"] or not path.is_file():
        return None
    try:
        content = read_json_object(path)
        sets, test = content["sets"], content["test"]
        if not sets or content["hashes"]["results.json"] != sha256_file(path.with_name("results.json")):
            return None
        return f"{sets['method']} {100 * sets['level']:g} %", {key: float(test[key]) for key in ("coverage", "size")}
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _sets(found):
    """{kind, coverage, size}: means over seeds, where all have sets of one kind."""
    if None in found or len({kind for kind, _ in found}) != 1:
        return None
    return {"kind": found[0][0], **{key: float(np.mean([test[key] for _, test in found])) for key in found[0][1]}}


def markdown(rows):
    """A Markdown table of `of_rows`, figures before and after scaling in one cell; "" where there are no rows."""
    if not rows:
        return ""
    with_sets = any(row["sets"] for row in rows)
    header = ["method", "shots", "part", "seeds", *FIGURES.values(), "T"]
    header += ["sets", "in the set", "set size"] if with_sets else []
    cells = []
    for row in rows:
        shots = "all" if row["shots"] < 1 else row["shots"]
        t = "-" if row["temperature"] is None else f"{row['temperature']:.2f}{'‡' if row['borrowed'] else ''}"
        cells.append([md(c) for c in (row["method"], shots, row["part"], row["seeds"], *_cells(row), t,
                                        *(_set_cells(row["sets"]) if with_sets else ()))])
    lines = ["Calibration (less is better), before → after temperature scaling:", "", *grid(header, cells), ""]
    return "\n".join([*lines, *(f"{md(line)}  " for line in _notes(rows))]) + "\n"


def _cells(row):
    for name in FIGURES:
        digits = 3 if name in ("nll", "brier") else 1
        after = f" → {row['scaled'][name]:.{digits}f}" if row["scaled"] else ""
        yield f"{row[name]:.{digits}f}{after}"


def _set_cells(sets):
    return [sets["kind"], f"{100 * sets['coverage']:.1f}", f"{sets['size']:.2f}"] if sets else ["-"] * 3


def _notes(rows):
    notes = []
    if any(row["scaled"] for row in rows):
        notes += ["T: temperature of least NLL on the split's whole val part, without images that chose the model "
                  "(geometric mean over seeds); test images never choose it."]  # fmt: skip
    if any(row["scaled"] and row["borrowed"] for row in rows):
        notes += ["‡: that of the training run, whose classes or images are others than those tested."]
    if any(row["sets"] for row in rows):
        notes += ["in the set: percent of test images whose prediction set holds the true class; set size: classes in "
                  "it (a patient counting once; `cilmp calibrate` made the sets)."]  # fmt: skip
    missing = {}
    for row in rows:
        if row["why"]:
            missing.setdefault(row["why"], []).append(f"{row['method']} ({row['part']})")
    for why, who in missing.items():
        notes += [f"Not scaled, {why}: {', '.join(dict.fromkeys(who))}."]
    if any(f"no {WHOLE_VAL}" in why for why in missing):
        notes += [f"{WHOLE_VAL} is written by training runs (not by older ones, with TEST.WHOLE_VAL False, or without "
                  f"a val part: the run's log says which); `cilmp calibrate RUN` makes it later."]  # fmt: skip
    return notes
