"""Pictures of what lies behind a table: per-class recall, confusion, ROC, reliability, training.

Of one part and number of shots; each shows the `SHOWN` rows that are highest there, and says of how many.
"""

from pathlib import Path

import numpy as np

from cilmp.experiments import calibration, predictions
from cilmp.experiments.formats import measure
from dassl.evaluation.figures import BINS
from dassl.utils.errors import UserError

from .frame import LABEL, QUIET, band, figure, fitted, legend, looks, wrapped
from .of_table import drawn_rows, in_shots, warned

SHOWN, MATRICES, CLASSES = 7, 3, 24
POINTS = 200  # of a training curve
FEWEST = 10  # answers in a bin that says something


class Behind:
    """The highest rows of a table in one part, with their records: what the pictures of a part are drawn from."""

    def __init__(self, protocol, table, records, part, shots):
        self.table, self.part, self.name, self._read = table, part, protocol.metrics[0], {}
        rows = [row for row in drawn_rows(protocol, table) if row["shots"] == shots and part in row["parts"]]
        rows = [row for row in rows if None not in (v := row["parts"][part][self.name].values()) and v]
        sign = -1 if measure(self.name).less_is_better else 1
        mean = {row["group"]: sign * np.mean(list(row["parts"][part][self.name].values())) for row in rows}
        self.rows, self.count = sorted(rows, key=lambda row: -mean[row["group"]])[:SHOWN], len(rows)
        own = {row["group"] for row in self.rows}
        records = [r for r in records if r["group"] in own]
        self.trained = {(r["group"], r["seed"]): r for r in records if not r["spec"]["source"]}
        self.records = {row["group"]: [r for r in records if r["group"] == row["group"] and r["spec"]["part"] == part]
                        for row in self.rows}  # fmt: skip
        self.where = f"{part}{in_shots(protocol, shots)}"

    def title(self, words, shown=None):
        shown = min(shown or SHOWN, self.count)
        some = f"the {shown} highest of {self.count} rows" if self.count > shown else "all rows"
        seeds = sorted({r["seed"] for own in self.records.values() for r in own})
        return f"{warned(self.table)}\n{words}: {self.where}, {some}, seeds {' '.join(map(str, seeds))}"

    def answers(self, row):
        """[(record, Predictions)] of a row's seeds whose predictions can be read."""
        for r in self.records[row["group"]]:
            if id(r) not in self._read:
                try:
                    self._read[id(r)] = predictions.read(r)
                except UserError:
                    self._read[id(r)] = None
        return [(r, p) for r in self.records[row["group"]] if (p := self._read[id(r)]) is not None]

    def temperature(self, record):
        """Of a run's training, fitted on the whole val part; None where there is none."""
        trained = self.trained.get((record["group"], record["seed"]), {})
        try:
            return calibration.fitted(trained["folder"])[0]
        except (UserError, KeyError):
            return None


def confusion_of(records):
    """(classes, counts (C, C) summed over seeds) of records of one part; None where they do not say or differ."""
    try:
        found = [(tuple(r["classes"]), np.asarray(r["confusion"], float)) for r in records
                 if r.get("confusion") and r.get("classes")]  # fmt: skip
    except (TypeError, ValueError):  # no matrix of numbers
        return None
    if not found or len({(c, m.shape) for c, m in found}) > 1 or found[0][1].shape != (len(found[0][0]),) * 2:
        return None
    return found[0][0], sum(m for _, m in found)


def per_class(behind):
    """Recall of each class: bars of the four highest rows, a deviation over seeds; at most CLASSES classes."""
    found = [(row, [confusion_of([r]) for r in behind.records[row["group"]]]) for row in behind.rows[:4]]
    found = [(row, [c for c in own if c]) for row, own in found]
    found = [(row, own) for row, own in found if own]
    if not found or len({c for _, own in found for c, _ in own}) > 1:
        return None
    classes, recalls = found[0][1][0][0], []
    for _, own in found:
        counts = np.stack([m for _, m in own])  # (S, C, C)
        totals = counts.sum(2)
        recalls.append(100 * np.diagonal(counts, axis1=1, axis2=2) / np.where(totals > 0, totals, np.nan))
    means = np.stack([r.mean(0) for r in recalls])  # (rows, C)
    order = np.flatnonzero(~np.isnan(means).any(0))  # classes that have images
    kept = sorted(sorted(order, key=lambda c: means[:, c].mean())[:CLASSES])
    some = f" (the {CLASSES} lowest of {len(order)} classes)" if len(order) > CLASSES else ""
    made, axes = figure(behind.title(f"Recall of each class{some}", 4), 0.6 + 0.115 * len(kept) * (len(found) + 1))
    axis, thick, handles = axes[0, 0], 0.8 / len(found), []
    for i, ((_, own), look) in enumerate(zip(found, looks(len(found)))):
        places = np.arange(len(kept)) + thick * (i - (len(found) - 1) / 2)
        spread = {"xerr": recalls[i].std(0)[kept], "error_kw": {"elinewidth": 0.7}} if len(own) > 1 else {}
        handles.append(axis.barh(places, means[i][kept], 0.9 * thick, color=look["color"], **spread))
    axis.set_yticks(range(len(kept)), labels=[fitted(made, classes[c], 2.2) for c in kept])
    axis.set_ylim(len(kept) - 0.45, -0.55)
    axis.set_xlim(0, 100)
    axis.set_xlabel("recall, %")
    axis.grid(visible=False, axis="y")
    legend(made, handles, [row["label"] for row, _ in found], 4)
    return made


def confusion(behind):
    """Counts over all seeds as shares of the true class, a panel a row of the table."""
    found = [(row, confusion_of(behind.records[row["group"]])) for row in behind.rows[:MATRICES]]
    found = [(row, *c) for row, c in found if c]
    if not found or len({c for _, c, _ in found}) > 1:
        return None
    classes = found[0][1]
    side = 6.0 / max(len(found), 2)
    made, axes = figure(behind.title("Confusion, % of the true class", MATRICES), side + 1.1, columns=len(found))
    for axis, (row, _, counts) in zip(axes[0], found):
        totals = counts.sum(1, keepdims=True)
        share = 100 * counts / np.where(totals > 0, totals, 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
        axis.grid(visible=False)
        axis.set_title("\n".join(wrapped(made, fitted(made, row["label"], side), side, LABEL)))
        axis.set_xlabel("predicted")
        _names(made, axis, classes, axis is axes[0, 0])
        if len(classes) <= 15:
            size = min(7.0, 60 * side / len(classes) / 2.6)
            for i, j in np.argwhere(np.round(share) > 0):
                axis.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=size,
                          color="white" if share[i, j] > 55 else "black")  # fmt: skip
    axes[0, 0].set_ylabel("true")
    return made


def _names(made, axis, classes, first):
    """Class names beside and below a matrix; numbers of the order of the labels where there are too many."""
    if len(classes) > CLASSES:
        return
    size = LABEL if len(classes) <= 12 else 6
    names = [fitted(made, c, 1.2, size) for c in classes]
    axis.set_xticks(range(len(classes)), labels=names, rotation=90, fontsize=size)
    axis.set_yticks(range(len(classes)), labels=names if first else [""] * len(classes), fontsize=size)


def roc(behind):
    """One-vs-rest curves, averaged over the classes that have images (macro), a deviation over seeds around."""
    from sklearn.metrics import roc_curve

    grid, curves = np.linspace(0, 1, 201), []
    for row in behind.rows:
        seeds = []
        for _, p in behind.answers(row):
            present = [c for c in range(p.probabilities.shape[1]) if 0 < (p.labels == c).sum() < len(p.labels)]
            own = [roc_curve(p.labels == c, p.probabilities[:, c])[:2] for c in present]
            if own:
                seeds.append(np.mean([np.interp(grid, *curve) for curve in own], 0))
        if seeds:
            curves.append((row, seeds))
    if not curves:
        return None
    made, axes = figure(behind.title("ROC, one class against the rest, mean over classes"), 3.6)
    axis, handles = axes[0, 0], []
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":", marker="")
    for (_, seeds), look in zip(curves, looks(len(curves))):
        handles.append(band(axis, grid, seeds, look | {"marker": ""}))
    axis.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    legend(made, handles, [row["label"] for row, _ in curves], 0)
    return made


def reliability(behind):
    """Share of right answers in each of BINS bins of confidence, seeds pooled, of the four highest rows; beside it
    after temperature scaling, of those whose runs have a temperature."""
    before, after = {}, {}
    for i, row in enumerate(behind.rows[:4]):
        own = behind.answers(row)
        if own:
            before[i] = _bins([(p, 1.0) for _, p in own])
            temperatures = [behind.temperature(r) for r, _ in own]
            if None not in temperatures:
                after[i] = _bins([(p, t) for (_, p), t in zip(own, temperatures)])
    if not before:
        return None
    panels = [("before temperature scaling" if after else "no temperature was fitted", before)]
    panels += [("after temperature scaling", after)] if after else []
    title = behind.title(f"Reliability, {BINS} bins of confidence (those of {FEWEST} answers or more), dots grow with "
                         "their number", 4)  # fmt: skip
    made, axes = figure(title, 3.3, columns=len(panels), sharey=True)
    handles = {}
    for axis, (words, found) in zip(axes[0], panels):
        axis.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":", marker="")
        for i, (confidence, share, weight) in found.items():
            look = looks(i + 1)[i]
            (handles[i],) = axis.plot(confidence, share, **look | {"marker": ""})
            axis.scatter(confidence, share, s=2 + 60 * weight, color=look["color"], marker=look["marker"])
        axis.set(xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02))
        axis.set_title(words)
    axes[0, 0].set_ylabel("share of right answers")
    legend(made, list(handles.values()), [behind.rows[i]["label"] for i in handles], 4 if after else 0)
    return made


def _bins(found):
    """(mean confidence, share of right answers, share of images) of the bins that hold FEWEST
    answers, of [(Predictions, T)]."""
    confidence, right = [], []
    for p, temperature in found:
        confidence.append(calibration.scaled(p.probabilities, temperature).max(1))
        right.append(p.predictions == p.labels)
    confidence, right = np.concatenate(confidence), np.concatenate(right).astype(float)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    n = np.bincount(bins, minlength=BINS)
    kept = n >= FEWEST
    mean = [np.bincount(bins, weights=v, minlength=BINS)[kept] / n[kept] for v in (confidence, right)]
    return *mean, n[kept] / n.sum()


def training(behind):
    """Loss and accuracy of the training batches, smoothed, a deviation over seeds around; rows with an optimiser."""
    from matplotlib.ticker import MaxNLocator

    found = []
    for row in behind.rows:
        runs = [logged(behind.trained.get((r["group"], r["seed"]), r)) for r in behind.records[row["group"]]]
        runs = [run for run in runs if run]
        if runs and len({len(run["train/loss"][0]) for run in runs}) == 1:
            found.append((row, runs))
    if not found:
        return None
    made, axes = figure(behind.title("Training batches, running mean"), 2.8, columns=2)
    handles = []
    for (_, runs), look in zip(found, looks(len(found))):
        for axis, tag in zip(axes[0], ("train/loss", "train/acc")):
            own = [run[tag] for run in runs if tag in run]
            if own and len({len(values) for _, values in own}) == 1:
                x, values = _smooth(own[0][0], np.stack([v for _, v in own]))
                line = band(axis, x, values, look | {"marker": ""})
        handles.append(line)
    for axis, words in zip(axes[0], ("loss", "accuracy, %")):
        axis.set(xlabel="step", ylabel=words)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend(made, handles, [row["label"] for row, _ in found])
    return made


def logged(record):
    """{tag: (steps, values)} of a run's TensorBoard events, train/loss and train/acc; {} where none can be read."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    if "folder" not in record:
        return found
    for file in sorted(Path(record["folder"], "tensorboard").glob("events.out.*")):
        try:
            for event in EventFileLoader(str(file)).Load():
                for v in event.summary.value:
                    if v.tag in ("train/loss", "train/acc"):
                        number = v.tensor.float_val[0] if v.tensor.float_val else v.simple_value
                        found.setdefault(v.tag, {})[event.step] = number  # a resumed run writes a step again
        except Exception:  # a torn file has no one kind of error
            continue
    found = {tag: (np.array(sorted(own)), np.array([own[s] for s in sorted(own)], float)) for tag, own in found.items()}
    return found if "train/loss" in found and np.isfinite(found["train/loss"][1]).all() else {}


def _smooth(x, values):
    """At most POINTS means of neighbouring steps, of steps (n,) and values (S, n)."""
    size = max(1, len(x) // min(POINTS, max(len(x) // 5, 1)))
    n = len(x) // size * size
    return x[:n].reshape(-1, size).mean(1), values[:, :n].reshape(len(values), -1, size).mean(2)

