"""What a table's figures show of the methods: differences, intervals, p-values, false claims, ranks over data sets.

Numbers only: labels and probabilities in, statistics out; `pairs` reads them from runs. Symbols: K runs, S seeds,
n images, C classes, G units (patients, or images where none are known).

A figure is one value of each seed, theta_s, and of each unit the slope d theta_s / d w_g: how theta_s moves when the
unit weighs more. The paired bootstrap over units resamples the weights w_g, so to first order its covariance between
two seeds is sum_g slope_sg slope_tg (the infinitesimal jackknife, Efron 1982): no draws, no noise of draws, and a table
of 25 methods in about a second. `compare` adds the seeds.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

LEVEL = 0.05
SEEDS, FRIEDMAN, WILCOXON = 5, 6, 10  # seeds, data sets, data sets: from how many a claim is possible


def accuracy(labels, predictions, probabilities):
    right = predictions == labels
    value = right.mean(1)
    return value, (right - value[:, None]) / len(labels)


def balanced_accuracy(labels, predictions, probabilities):
    truth = np.bincount(labels)
    present = np.flatnonzero(truth)
    right = (predictions == labels).astype(float)
    recall = np.zeros((len(right), len(truth)))
    recall[:, present] = right @ (labels[:, None] == present) / truth[present]
    return recall[:, present].mean(1), (right - recall[:, labels]) / truth[labels] / len(present)


def macro_f1(labels, predictions, probabilities):
    """Over the classes present in the labels, as figures.macro_f1."""
    classes = probabilities.shape[2]
    truth, right = np.bincount(labels, minlength=classes), predictions == labels
    present, places = truth > 0, np.arange(len(right))[:, None]
    predicted, hits = np.zeros((2, len(right), classes))
    np.add.at(predicted, (places, predictions), 1)
    np.add.at(hits, (places, labels[None]), right)
    share = present / np.maximum(truth + predicted, 1) / present.sum()  # (K, C), 0 for absent classes
    f1 = 2 * hits / np.maximum(truth + predicted, 1)
    slopes = (2 * right - f1[:, labels]) * share[:, labels]
    return (f1 * present).sum(1) / present.sum(), slopes - f1[places, predictions] * share[places, predictions]


def auroc(labels, predictions, probabilities):
    """One-vs-rest, macro; None where a class has no image. The slopes are DeLong's structural components."""
    classes = probabilities.shape[2]
    if classes < 2 or (np.bincount(labels, minlength=classes) == 0).any():
        return None
    chosen = [1] if classes == 2 else range(classes)
    values, slopes = np.zeros(len(probabilities)), np.zeros(probabilities.shape[:2])
    for c in chosen:
        inside, score = labels == c, probabilities[:, :, c]
        ranks = stats.rankdata(score, axis=1)
        above = (ranks[:, inside] - stats.rankdata(score[:, inside], axis=1)) / (~inside).sum()  # share of rest below
        below = 1 - (ranks[:, ~inside] - stats.rankdata(score[:, ~inside], axis=1)) / inside.sum()
        value = above.mean(1)
        values += value
        slopes[:, inside] += (above - value[:, None]) / inside.sum()
        slopes[:, ~inside] += (below - value[:, None]) / (~inside).sum()
    return values / len(chosen), slopes / len(chosen)


FIGURES = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1, "auroc": auroc}


def figure(name, labels, predictions, probabilities, units):
    """(values (K,), slopes (K, G)) in percent of one of FIGURES; None where it is undefined.

    Args:
        labels, units: (n,) integers. predictions: (K, n). probabilities: (K, n, C).
    """
    from scipy.sparse import csr_matrix

    found = FIGURES[name](labels, predictions, probabilities)
    if found is None:
        return None
    n = len(labels)
    member = csr_matrix((np.ones(n), (units, np.arange(n))), shape=(int(units.max()) + 1, n))
    return 100 * found[0], 100 * (member @ found[1].T).T


@dataclass(frozen=True)
class Comparison:
    """A difference with its standard error, degrees of freedom, 95 % interval and two-sided p."""

    difference: float
    error: float
    df: float
    low: float
    high: float
    p: float


def compare(values, slopes, difference=None):
    """Comparison of two methods from their paired differences of each seed, values (S,), and unit, slopes (S, G).

    Seeds and units are crossed (every seed is tested on the same units), as readers and cases are: with M the variance
    of `values` over seeds and c the bootstrap's covariance between two seeds,

        error^2 = M / S + max(c, 0)                            (Obuchowski and Rockette 1995)
        1 / df  = share_M / (S - 1) + share_c / (G - 1)        the shares of error^2

    M holds the seeds' own spread and each seed's luck with the images; c what all seeds share. Satterthwaite's degrees
    of freedom have the squares of the shares: too many where three seeds lie close by chance (8 % false claims in
    benchmarks/false_claims.py). One seed: c is the bootstrap's variance, and nothing is known of other seeds. G units
    cannot give a p below that of the sign test when all agree, 2^(1 - G).
    """
    s, g = slopes.shape
    covariance = slopes @ slopes.T * (g / max(g - 1, 1))
    own = np.var(values, ddof=1) / s if s > 1 else 0.0
    shared = (covariance.sum() - np.trace(covariance)) / (s * (s - 1)) if s > 1 else covariance[0, 0]
    shared = max(float(shared), 0.0)
    spent = own / max(s - 1, 1) + shared / max(g - 1, 1)
    df = (own + shared) / spent if spent > 0 else max(g - 1, 1)
    difference = float(np.mean(values) if difference is None else difference)
    error = float(np.sqrt(own + shared))
    reach = error * special.stdtrit(df, 1 - LEVEL / 2)
    if error > 1e-9:
        p = 2 * special.stdtr(df, -abs(difference) / error)
    else:
        p = 1.0 if abs(difference) < 1e-9 else 0.0
    p = min(1.0, max(float(p), 2.0 ** (1 - g)))
    return Comparison(difference, error, float(df), difference - reach, difference + reach, p)


def holm(p):
    """Holm's p-values (1979): the i-th smallest times the hypotheses left, never falling."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def false_claim(right_a, right_b, units):
    """Probability that "A is more accurate than B" is false, of right_a, right_b (S, n) and units (n,).

    Of one seed the shares of patients that only A or only B gets right have a Dirichlet posterior (a uniform prior on
    them, as in Christodoulou et al., 2505.04720), of which p(only A) <= p(only B) is a beta distribution's tail. A
    patient is one observation, shared out over its images. Seeds are averaged *after* that: the answer is for a
    training drawn at random; pooling them would count every patient S times, and make the seeds' luck evidence.
    """
    weight = 1 / np.bincount(units)[units]
    only_a, only_b = (right_a & ~right_b) @ weight, (~right_a & right_b) @ weight
    return float(np.mean(special.betainc(only_a + 1, only_b + 1, 0.5)))


def ranks(values):
    """(N, k) ranks of (N sets, k methods) values, 1 the highest, equals share."""
    return stats.rankdata(-np.asarray(values), axis=1)


def friedman(values):
    """(p, average ranks (k,), critical difference of Nemenyi's test) of (N sets, k >= 3 methods) values."""
    values = np.asarray(values)
    n, k = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all equal: no p
        p = float(stats.friedmanchisquare(*values.T).pvalue)
    reach = stats.studentized_range.ppf(1 - LEVEL, k, np.inf) / np.sqrt(2)
    return 1.0 if np.isnan(p) else p, ranks(values).mean(0), float(reach * np.sqrt(k * (k + 1) / (6 * n)))


def wilcoxon(values):
    """{(a, b): Holm-corrected p} of Wilcoxon's signed-rank test over (N sets, k methods) values."""
    values = np.asarray(values)
    pairs = [(a, b) for a in range(values.shape[1]) for b in range(a + 1, values.shape[1])]
    found = [_signed_rank(values[:, a] - values[:, b]) for a, b in pairs]
    return dict(zip(pairs, holm(found)))


def _signed_rank(differences):
    return 1.0 if not differences.any() else float(stats.wilcoxon(differences).pvalue)
