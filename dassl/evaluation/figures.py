"""Figures of a classification, from scikit-learn and torchmetrics. Percentages are 0-100, kappas -1..1."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 15  # of the expected calibration error
RESAMPLES = 1000
WHOLE_VAL = "predictions_whole_val.npz"  # what calibration is fitted on, in the folder of a run that trained


METRICS = {}  # name in results.json: Metric


@dataclass(frozen=True)
class Metric:
    """One figure of labels (n,) and class probabilities (n, C): its column's title, and what computes it."""

    title: str
    compute: Callable
    less_is_better: bool = False
    percent: bool = True


def metric(title, **facts):
    """Register a function (labels, probabilities) -> number, or None where undefined, under its own name."""

    def register(compute):
        METRICS[compute.__name__] = Metric(title, compute, **facts)
        return compute

    return register


def figures(y_true, probabilities):
    """{name: value} of METRICS; None where undefined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined values come back as None
        found = {name: row.compute(y_true, probabilities) for name, row in METRICS.items()}
    return {k: None if v is None or not np.isfinite(v) else float(v) for k, v in found.items()}


@metric("acc")
def accuracy(y_true, probabilities):
    from sklearn.metrics import accuracy_score

    return 100 * accuracy_score(y_true, probabilities.argmax(1))


@metric("F1")
def macro_f1(y_true, probabilities):
    """Over the classes present in y_true (Dassl's habit)."""
    from sklearn.metrics import f1_score

    present = np.unique(y_true)
    return 100 * f1_score(y_true, probabilities.argmax(1), average="macro", labels=present, zero_division=0)


@metric("bal acc")
def balanced_accuracy(y_true, probabilities):
    from sklearn.metrics import balanced_accuracy_score

    return 100 * balanced_accuracy_score(y_true, probabilities.argmax(1))


@metric("AUROC")
def auroc(y_true, probabilities):
    """One-vs-rest, macro."""
    from sklearn.metrics import roc_auc_score

    labels = np.arange(probabilities.shape[1])
    if len(np.unique(y_true)) < len(labels) or len(labels) < 2:
        return None
    if len(labels) == 2:
        return 100 * roc_auc_score(y_true, probabilities[:, 1])
    p = probabilities.astype(np.float64)
    return 100 * roc_auc_score(y_true, p / p.sum(1, keepdims=True), multi_class="ovr", labels=labels)


@metric("ECE", less_is_better=True)
def ece(y_true, probabilities):
    """Expected calibration error (%) over BINS equal bins of the top probability."""
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    confidence = torch.from_numpy(probabilities.max(1).astype(np.float32))
    hit = torch.from_numpy((probabilities.argmax(1) == y_true).astype(np.int64))
    return 100 * float(binary_calibration_error(confidence, hit, n_bins=BINS))


@metric("kappa", percent=False)
def kappa(y_true, probabilities, weights=None):
    """Cohen's."""
    from sklearn.metrics import cohen_kappa_score

    labels = np.arange(probabilities.shape[1])
    return cohen_kappa_score(y_true, probabilities.argmax(1), labels=labels, weights=weights)


@metric("QWK", percent=False)
def kappa_quadratic(y_true, probabilities):
    """Cohen's, an error weighed by its squared distance in class order."""
    return kappa(y_true, probabilities, "quadratic")


def per_class(y_true, y_pred, names):
    """{name: {accuracy (= recall), precision, recall, f1, n}} in percent; None for a class without images."""
    from sklearn.metrics import precision_recall_fscore_support

    labels = np.arange(len(names))
    precision, recall, f1, n = precision_recall_fscore_support(y_true, y_pred, labels=labels, zero_division=0)
    table = {}
    for c, name in enumerate(names):
        values = {"accuracy": recall[c], "precision": precision[c], "recall": recall[c], "f1": f1[c]}
        table[name] = {k: 100 * float(v) if n[c] else None for k, v in values.items()} | {"n": int(n[c])}
    return table


def intervals(y_true, y_pred, classes, groups=None, seed=0):
    """95 % bootstrap intervals of accuracy and macro-F1, resampling groups (patients, lesions) or images.

    Args:
        groups: (n,) ids or None.

    Returns:
        ({"accuracy": [low, high], "macro_f1": [low, high]}, "group" or "image")
    """
    units = np.arange(len(y_true)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    number = int(units.max()) + 1
    right = y_true == y_pred
    counts = [_counts(units, y_true, right, number, classes)]  # hits, true images, predicted images: (number, C) each
    counts += [_counts(units, y, np.ones(len(y)), number, classes) for y in (y_true, y_pred)]
    rng, draws = np.random.default_rng(seed), []
    for size in _portions(RESAMPLES, max(1, 2**24 // number)):
        weights = rng.multinomial(number, np.full(number, 1 / number), size=size).astype(np.float64)
        draws.append([weights @ c for c in counts])
    hits, truth, predicted = (np.concatenate(part) for part in zip(*draws))  # (RESAMPLES, C)
    f1 = 2 * hits / np.maximum(truth + predicted, 1)
    present = truth > 0
    values = {
        "accuracy": 100 * hits.sum(1) / np.maximum(truth.sum(1), 1),
        "macro_f1": 100 * (f1 * present).sum(1) / np.maximum(present.sum(1), 1),
    }
    bounds = {k: [float(x) for x in np.percentile(v, [2.5, 97.5])] for k, v in values.items()}
    return bounds, "image" if groups is None else "group"


def _counts(units, labels, values, number, classes):
    """Sparse (number, C) sums: with C classes a dense confusion matrix a unit would grow as C * C."""
    from scipy.sparse import csr_matrix

    return csr_matrix((np.asarray(values, dtype=np.float64), (units, labels)), shape=(number, classes))


def confusion(y_true, y_pred, classes):
    """(C, C) counts, rows are the truth."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(y_true, y_pred, labels=np.arange(classes))


def _portions(total, size):
    return [min(size, total - i) for i in range(0, total, size)]
