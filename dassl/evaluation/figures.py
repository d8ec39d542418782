"""Figures of a classification, from scikit-learn and torchmetrics. Percentages are 0-100, kappas -1..1."""

import warnings

import numpy as np

BINS = 15  # of the expected calibration error
RESAMPLES = 1000


def figures(y_true, probabilities):
    """Figures of labels (n,) and class probabilities (n, C); None where undefined.

    macro_f1 is over the classes present in y_true (Dassl's habit); auroc is one-vs-rest, macro.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score

    y_pred, labels = probabilities.argmax(1), np.arange(probabilities.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined values come back as None
        found = {
            "accuracy": 100 * accuracy_score(y_true, y_pred),
            "macro_f1": 100 * f1_score(y_true, y_pred, average="macro", labels=np.unique(y_true), zero_division=0),
            "balanced_accuracy": 100 * balanced_accuracy_score(y_true, y_pred),
            "auroc": _auroc(y_true, probabilities, labels),
            "ece": calibration_error(y_true, probabilities),
            "kappa": cohen_kappa_score(y_true, y_pred, labels=labels),
            "kappa_quadratic": cohen_kappa_score(y_true, y_pred, labels=labels, weights="quadratic"),
        }
    return {k: None if v is None or not np.isfinite(v) else float(v) for k, v in found.items()}


def _auroc(y_true, probabilities, labels):
    from sklearn.metrics import roc_auc_score

    if len(np.unique(y_true)) < len(labels) or len(labels) < 2:
        return None
    if len(labels) == 2:
        return 100 * roc_auc_score(y_true, probabilities[:, 1])
    p = probabilities.astype(np.float64)
    return 100 * roc_auc_score(y_true, p / p.sum(1, keepdims=True), multi_class="ovr", labels=labels)


def calibration_error(y_true, probabilities):
    """Expected calibration error (%) over BINS equal bins of the top probability."""
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    confidence = torch.from_numpy(probabilities.max(1).astype(np.float32))
    hit = torch.from_numpy((probabilities.argmax(1) == y_true).astype(np.int64))
    return 100 * float(binary_calibration_error(confidence, hit, n_bins=BINS))


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
