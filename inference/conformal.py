"""Sets of classes that hold the true one with a promised probability: split conformal prediction.

    lac    s_c = 1 - p_c                                    (Sadinle, Lei, Wasserman 2019): the smallest sets
    aps    s_c = sum of p over the classes up to c          (Romano, Sesia, Candes 2020): larger where it is hard
    raps   as aps, + LAMBDA max(0, rank of c - K)           (Angelopoulos et al. 2021): without its long tails
    class  as lac, a threshold of its own for each class    (Vovk 2012): the promise holds in every class

    set = {c: s_c <= q},  q: of n calibration scores s_label the ceil((n + 1) level)-th smallest

Calibration and new images must be exchangeable, so one image a patient counts; then P(label in set) >= level for an
image of a new patient. The p-values are crepes's; q is where they pass 1 - level. p: the model's own probabilities, not
those at a temperature, so that one val part serves both (scaling makes the sets of aps larger: Dabah and Tirer,
2402.05806).
"""

from fractions import Fraction
from math import ceil

import numpy as np

from dassl.utils.errors import UserError

METHODS = ("lac", "aps", "raps", "class")
LAMBDA, K = 0.1, 1  # of raps: fixed, so that no image is spent on choosing them
CLOSE = 1e-9  # p-values are multiples of 1 / (n + 1)


class TooFew(UserError):
    """Fewer calibration images than a level takes."""


def scores(method, probabilities, u=None):
    """(n, C) scores of all classes.

    Args:
        u: (n,) uniform numbers, for the randomised scores of aps and raps, whose coverage is exact; None: whole ones.
    """
    p = np.asarray(probabilities, dtype=float)
    if method in ("lac", "class"):
        return 1 - p
    order = np.argsort(-p, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    found = np.take_along_axis(np.take_along_axis(p, order, 1).cumsum(1), rank, 1)
    if u is not None:
        found -= np.asarray(u)[:, None] * p
    if method == "raps":
        found += LAMBDA * np.maximum(rank + 1 - K, 0)
    return found


def needed(level):
    """Fewest calibration images that a level takes: 9 for 0.9, 19 for 0.95, 99 for 0.99."""
    return ceil(1 / (1 - Fraction(str(level)))) - 1


def check_enough(n, level):
    if n < needed(level):
        raise TooFew(f"{n} calibration images are too few for a level of {level:g}: it takes {needed(level)}")


def threshold(values, level):
    """q of (n,) calibration scores.

    Raises:
        TooFew: n is below needed(level).
    """
    check_enough(len(values), level)
    p = crepes().ConformalClassifier()
    p.fit(np.asarray(values))
    above = p.predict_p(np.asarray(values), smoothing=False) > 1 - level + CLOSE
    return float(np.max(np.asarray(values)[above]))


def thresholds(method, level, labels, probabilities, classes, u=None):
    """[q], or for "class" [q of each class], of calibration images' labels (n,) and probabilities (n, C).

    Raises:
        TooFew: says of which classes, and how many it takes.
    """
    own = scores(method, probabilities, u)[np.arange(len(labels)), labels]
    if method != "class":
        return [threshold(own, level)]
    counts = np.bincount(labels, minlength=len(classes))
    if (counts < needed(level)).any():
        few = [f"{classes[c]} {counts[c]}" for c in np.flatnonzero(counts < needed(level))]
        raise TooFew(f"class by class a level of {level:g} takes {needed(level)} calibration images of each class, and "
                     f"there are: {', '.join(few[:5])}{' ...' if len(few) > 5 else ''}; use another method, or give "
                     f"images with --calibrate")  # fmt: skip
    return [threshold(own[labels == c], level) for c in range(len(classes))]


def sets(method, q, probabilities, u=None, never_empty=True):
    """(n, C) bool: whether a class is in the image's set.

    Args:
        never_empty: the likeliest class always is; that can only add to the coverage.
    """
    inside = scores(method, probabilities, u) <= np.asarray(q) + CLOSE
    if never_empty:
        inside[np.arange(len(inside)), np.asarray(probabilities).argmax(1)] = True
    return inside


def one_each(units, seed):
    """Indices of one image of each unit (patient), by a seed; sorted."""
    order = np.random.default_rng(seed).permutation(len(units))
    return np.sort(order[np.unique(np.asarray(units)[order], return_index=True)[1]])


def crepes():
    try:
        import crepes
    except ImportError:
        raise UserError("prediction sets need the package crepes: pip install 'cilmp[sure]'") from None
    return crepes
