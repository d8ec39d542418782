"""Images that are the same or nearly so.

Exact: equal decoded pixels. Near: the same picture re-encoded, resized, re-lit, mirrored or slightly cropped.
Thumbnails propose pairs (`candidates`), the images themselves, opened again, confirm them (`same_picture`).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from cilmp.datasets.candidates import candidates
from cilmp.datasets.same_picture import agreement
from cilmp.datasets.scan import grey
from dassl.utils import read_image

GLANCE = 0.7  # agreement of the thumbnails that is worth opening both images
SAME = 0.75  # agreement of the images
EVEN = 2  # grey levels between the darkest and the brightest of a thumbnail that shows nothing
SIDE = 64, 192  # pixels a side at which images are compared: their own shorter side within these
OPEN = 4096  # images kept open


def exact_groups(seen):
    """Lists of files with equal pixels, from {file: Seen}."""
    groups = {}
    for file, s in seen.items():
        if not s.error:
            groups.setdefault(s.pixels, []).append(file)
    return [files for files in groups.values() if len(files) > 1]


def near_pairs(seen, same=SAME):
    """[(file, file, agreement)] of images that show one picture but are not equal; of equal ones the first speaks.

    An image is judged against the ten later ones most like it: of many copies not every pair is listed, but all
    hang together.
    """
    files = list({s.pixels: f for f, s in reversed(seen.items()) if not s.error}.values())[::-1]
    if len(files) < 2:
        return []
    thumbs = np.stack([seen[f].grey() for f in files])
    opened = lru_cache(OPEN)(lambda file, side: grey(read_image(file), side))

    def judge(pair):
        i, j, place = pair
        if agreement(thumbs[i], thumbs[j], place, refine=False) < GLANCE:
            return 0.0
        side = min(max(min(*seen[files[i]].size, *seen[files[j]].size), SIDE[0]), SIDE[1])
        return agreement(opened(files[i], side), opened(files[j], side), place)

    pairs = candidates(thumbs)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        judged = list(threads.map(judge, pairs))
    return [(files[i], files[j], round(much, 3)) for (i, j, _), much in zip(pairs, judged) if much >= same]


def alike_pairs(seen):
    """Pairs that join all images that are equal or look alike, for `clusters`; even (blank) ones join nobody."""
    equal = [files for files in exact_groups(seen) if np.ptp(seen[files[0]].grey()) > EVEN]
    return [(files[0], other, 1.0) for files in equal for other in files[1:]] + near_pairs(seen)


def clusters(files, pairs):
    """{file: name of its cluster}: files joined by any chain of pairs; the name is the first file of the chain."""
    parent = {f: f for f in files}

    def root(f):
        while parent[f] != f:
            parent[f] = parent[parent[f]]
            f = parent[f]
        return f

    for a, b, *_ in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {f: root(f) for f in files}
