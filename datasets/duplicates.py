"""Images that are the same or nearly so.

Exact: equal decoded pixels. Near: perceptual hashes at most NEAR of 64 bits apart, and grey thumbnails that
correlate at least ALIKE: the hash proposes, the thumbnail confirms, since aligned films (chest, OCT) of
different patients can share most hash bits.
"""

import numpy as np

NEAR = 6  # bits
ALIKE = 0.98  # correlation of the thumbnails
BLOCK = 512  # rows of the hash matrix compared at a time: (BLOCK, n) floats


def exact_groups(seen):
    """Lists of files with equal pixels, from {file: Seen}."""
    groups = {}
    for file, s in seen.items():
        if not s.error:
            groups.setdefault(s.pixels, []).append(file)
    return [files for files in groups.values() if len(files) > 1]


def near_pairs(seen, near=NEAR, alike=ALIKE):
    """[(file, file, bits apart)] of images that look alike but are not equal; of equal ones the first speaks."""
    files = list({s.pixels: f for f, s in reversed(seen.items()) if not s.error}.values())[::-1]
    if len(files) < 2:
        return []
    signs = (np.stack([_bits(seen[f].phash) for f in files]) * 2.0 - 1).astype(np.float32)  # (n, 64) of +-1
    thumbs = np.stack([_standard(seen[f].thumb) for f in files])  # (n, THUMB^2), zero mean, unit norm
    pairs = []
    for start in range(0, len(files), BLOCK):
        apart = (64 - signs[start:start + BLOCK] @ signs[start:].T) / 2  # (BLOCK, n - start)
        rows, columns = np.nonzero(apart <= near)
        later = columns > rows
        rows, columns = rows[later], columns[later]
        like = np.einsum("ij,ij->i", thumbs[rows + start], thumbs[columns + start]) >= alike
        pairs += [(files[start + i], files[start + j], int(apart[i, j])) for i, j in zip(rows[like], columns[like])]
    return pairs


def alike_pairs(seen):
    """Pairs that join all images that are equal or look alike, for `clusters`; even (blank) ones join nobody."""
    equal = [files for files in exact_groups(seen) if _standard(seen[files[0]].thumb).any()]
    return [(files[0], other, 0) for files in equal for other in files[1:]] + near_pairs(seen)


def _bits(phash):
    return np.unpackbits(np.frombuffer(bytes.fromhex(phash), np.uint8))


def _standard(thumb):
    values = np.frombuffer(bytes.fromhex(thumb), np.uint8).astype(np.float32)
    values = values - values.mean()
    norm = np.linalg.norm(values)  # an even image correlates with nothing: only its exact copies count
    return values / norm if norm > 1 else np.zeros_like(values)


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
