"""Whether an image is unlike the training images, by the model's own unit image features x.

    d(x) = min_c (x - mu_c)' P (x - mu_c)      mu_c: mean of class c's training images, P: inverse of the covariance
                                               that classes share, shrunk (Ledoit and Wolf 2004)

The Mahalanobis distance of Lee et al. 2018 (1807.03888). Flagged above what 95 % of val images stay below: the
threshold is conformal, so of images like those of val at most 5 % are. What is not flagged may still be anything.
"""

import numpy as np

from dassl.utils.errors import UserError

LEVEL = 0.95


def fitted(features, labels):
    """(means (C', d), whitening (d, d)) float32 of training images' features (N, d) and labels (N,); P = W W'.

    Raises:
        UserError: nothing varies within the classes, as where each has one image.
    """
    from sklearn.covariance import LedoitWolf

    classes, own = np.unique(labels, return_inverse=True)
    x = np.asarray(features, dtype=float)
    means = np.stack([x[own == c].mean(0) for c in range(len(classes))])
    precision = LedoitWolf(assume_centered=True, store_precision=True).fit(x - means[own]).precision_
    try:
        whitening = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        raise UserError("training images of one class don't differ, so how far another may lie from them is not "
                        "known: it takes two or more of a class") from None  # fmt: skip
    return means.astype(np.float32), whitening.astype(np.float32)


def distances(means, whitening, features):
    """(n,) of features (n, d)."""
    x = np.asarray(features, dtype=float) @ whitening
    return np.min([((x - mean) ** 2).sum(1) for mean in np.asarray(means, dtype=float) @ whitening], axis=0)
