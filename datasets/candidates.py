"""Which pairs of images are worth a second look: for every image the few that are most like it, from thumbnails.

A thumbnail is described by its low waves (DCT, up to WAVES, each times its frequency). Mirroring an image turns the
sign of its odd waves; a crop is one of a few views of the uncropped one, each a matrix product away. So mirrored and
cropped copies are found by products of (BLOCK, d) with (d, n), without opening an image again.
"""

from itertools import product

import numpy as np
from scipy.fft import dct

from cilmp.datasets.same_picture import Place

WAVES = 10
LIKE = 0.9  # cosine of the descriptions
MOST = 10  # candidates kept for an image, among those after it
BLOCK = 512  # images compared with all others at a time
EVEN = 8  # norm of a description: below, there is nothing to see
PLAIN = 1e-3  # a view or a mirror must be better than the plain image by this

WHOLE, INNER, INSIDE, LOW, HIGH = (0, 0), (0.025, 0.025), (0.05, 0.05), (0.05, 0), (0, 0.05)  # cut off at both ends
VIEWS = [(WHOLE, WHOLE), (INNER, INNER), (INSIDE, INSIDE), *product((LOW, HIGH), repeat=2),
         (WHOLE, LOW), (WHOLE, HIGH), (LOW, WHOLE), (HIGH, WHOLE)]  # (top and bottom, left and right)

_down, _across = np.indices((WAVES, WAVES))
_frequency = np.hypot(_down, _across)
_kept = (_frequency > 0) & (_frequency < WAVES)
MIRROR = np.where(_across % 2, -1, 1)[_kept].astype(np.float32)  # (d,)


def candidates(thumbs):
    """[(i, j, Place)] with i < j: where to lay image j onto image i to see whether it is the same.

    thumbs: (n, side, side) uint8. An even (blank) image is a candidate for nobody.
    """
    views = describe(thumbs)
    found = []
    for start in range(0, views.shape[1], BLOCK):
        rows, columns = _most_alike(views, start)
        found += zip(rows.tolist(), columns.tolist(), _places(views[:, rows], views[:, columns]))
    return found


def describe(thumbs):
    """(VIEWS, n, d) float32 of unit length; zero for an even image."""
    waves = {cut: _waves(thumbs.shape[-1], *cut) for view in VIEWS for cut in view}
    blocks = (thumbs[start:start + BLOCK].astype(np.float32) for start in range(0, len(thumbs), BLOCK))
    return np.concatenate([np.stack([_described(waves[down] @ block @ waves[across].T) for down, across in VIEWS])
                           for block in blocks], axis=1)


def _described(waves):
    """(n, d) of the waves (n, WAVES, WAVES)."""
    flat = waves[:, _kept] * _frequency[_kept]
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norm > EVEN, flat / np.maximum(norm, EVEN), 0).astype(np.float32)


def _waves(side, before, after):
    """(WAVES, side): the low waves of a line whose ends were cut off and whose rest was stretched to `side`."""
    at = (np.arange(side) + 0.5) * (1 - before - after) + side * before - 0.5
    whole = np.clip(at.astype(int), 0, side - 2)
    stretch = np.zeros((side, side))
    stretch[np.arange(side), whole] = 1 - (at - whole)
    stretch[np.arange(side), whole + 1] = at - whole
    return (dct(np.eye(side), axis=0, norm="ortho")[:WAVES] @ stretch).astype(np.float32)


def _most_alike(views, start):
    """Rows and columns of the MOST best likenesses of each image of the block with images after it."""
    whole, like = views[0], None
    for sign, view in product((1, MIRROR), views):
        for one, other in ((view, whole), (whole, view)):
            if like is None or one is not other:
                now = one[start:start + BLOCK] @ (other[start:] * sign).T  # (BLOCK, n - start)
                like = now if like is None else np.maximum(like, now, out=like)
    rows, columns = np.indices(like.shape, sparse=True)
    like[columns <= rows] = -1
    most = min(MOST, like.shape[1])
    best = np.sort(np.argpartition(-like, most - 1, axis=1)[:, :most], axis=1)
    chosen = np.take_along_axis(like, best, axis=1) >= LIKE
    return np.nonzero(chosen)[0] + start, best[chosen] + start


def _places(one, other):
    """The Place of each pair, from the views that fit best; one, other: (VIEWS, pairs, d)."""
    likeness, places = [], []
    for mirrored, (k, (down, across)) in product((False, True), enumerate(VIEWS)):
        sign = MIRROR if mirrored else 1
        likeness += [(one[k] * other[0] * sign).sum(1), (one[0] * other[k] * sign).sum(1)]
        places += [_outward(mirrored, down, across), _inward(mirrored, down, across)]
    likeness = np.stack(likeness) - PLAIN * np.array([[p != Place()] for p in places])
    return [places[k] for k in likeness.argmax(0)]


def _inward(mirrored, down, across):
    """The whole of a is the view of b."""
    if mirrored:
        across = across[::-1]
    return Place(mirrored, (1 - sum(across), 1 - sum(down)), (across[0], down[0]))


def _outward(mirrored, down, across):
    """The view of a is the whole of b."""
    scale = (1 / (1 - sum(across)), 1 / (1 - sum(down)))
    return Place(mirrored, scale, (-across[0] * scale[0], -down[0] * scale[1]))
