"""Sets that share images: a model trained on one has seen the test images of the other.

Which collections a set is made of stands in its row (`sources`), for a set of one's own in dataset.json.
"""

import os
from itertools import combinations

from cilmp.datasets.locate import canonical, info
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import UserError

COLLECTIONS = {
    "ham10000": "HAM10000 (ISIC 2018 train and DermaMNIST are the same photographs)",
    "kermany-cxr": "the paediatric chest films of Kermany et al.",
    "odir": "ODIR-5K", "busi": "BUSI", "kvasir": "Kvasir (v1 is part of v2)",
    "lits": "the LiTS CT scans (three views of the same scans)",
    "cohen-covid": "the COVID-19 figures of Cohen et al.", "nih-cxr": "the NIH chest X-rays", "bccd": "BCCD",
}


def overlap(a, b, root=""):
    """Words for the collections two sets share, "" if none is known; a set overlaps with itself."""
    a, b = canonical(a), canonical(b)
    if a == b:
        return f"{a} itself"
    shared = sorted(set(info(a, root).sources) & set(info(b, root).sources))
    return "; ".join(COLLECTIONS.get(s, s) for s in shared)


def refuse_overlap(a, b, root=""):
    """UserError if a cross-dataset run from `a` to `b` would test on images of the training collection.

    ALLOW_OVERLAP=1 lets it pass; the words are returned, so that tables can mark the pair.
    """
    words = overlap(a, b, root)
    if words and os.environ.get("ALLOW_OVERLAP") != "1":
        raise UserError(f"{a} and {b} share images ({words}): a cross-dataset result would be leaked. "
                        "Set ALLOW_OVERLAP=1 to run it all the same; tables will mark it")
    return words


def pairs():
    """[(set, set, words)] of the table that overlap."""
    sets = [TABLE[name] for name in TABLE.sets()]
    shared = [(a, b, sorted(set(a.sources) & set(b.sources))) for a, b in combinations(sets, 2)]
    return [(a.name, b.name, "; ".join(COLLECTIONS.get(s, s) for s in ids)) for a, b, ids in shared if ids]
