"""Whether an image is unlike the training images: far from all of them, in the model's own unit image features.

    d = |x - nearest training image|            flagged above the distance that 95 % of val images stay below

The threshold is conformal, too: of images like those of val at most 5 % are flagged. What is not flagged may still be
anything: the distance is that of features made for other classes.
"""

import numpy as np

from . import conformal

MOST = 20_000  # training images that are kept, a seeded choice of more
LEVEL = 0.95


def chosen(features, seed):
    """(N, d) float16 of training images' unit features (N', d)."""
    if len(features) > MOST:
        features = features[np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST])]
    return np.asarray(features, dtype=np.float16)


def distances(training, features):
    """(n,) of (n, d) unit features to the nearest of training's (N, d)."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(np.asarray(training, dtype=np.float32))
    return nearest.kneighbors(np.asarray(features, dtype=np.float32))[0][:, 0]


def threshold(training, features):
    """Distance above which an image is flagged, of calibration images' features (n, d), one a patient.

    Raises:
        TooFew: there are less than 19.
    """
    return conformal.threshold(distances(training, features), LEVEL)
