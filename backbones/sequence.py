"""What a text tower encodes: segments of tokens in order, each with a level for every layer that it is written for.

Every tensor of tokens has four axes (b, c, P, d_t), b in {1, B} images and c in {1, C} classes; an axis of size 1
is shared. Layers work on rows (b, n, w): the n tokens of all classes that are no padding.
"""

from dataclasses import dataclass

import torch

from .rank import narrow
from .rows import Pack, Unpack


class Ragged:
    """Which of P tokens each of C classes has: the first lengths[c] of them; the rest is padding.

    mask: (C, P) bool. index: (n,), where the n tokens stand in the flattened mask, so that what is done token by
    token can leave padding out. lengths are plain ints: a class slice needs no answer from the device.
    """

    def __init__(self, mask, lengths, index=None):
        self.mask, self.lengths = mask, lengths
        self.index = mask.flatten().nonzero().squeeze(1) if index is None else index

    def __getitem__(self, classes):
        first, last, _ = classes.indices(len(self.lengths))
        before, inside = sum(self.lengths[:first]), sum(self.lengths[first:last])
        index = self.index[before : before + inside] - first * self.mask.shape[1]
        return Ragged(self.mask[classes], self.lengths[classes], index)


@dataclass
class Segment:
    """A run of P tokens that stands at the same place in every sequence.

    levels: tokens of the levels 0..J-1, each (b, c, P, d_t) dense or LowRank.
    position: (1 or C, P) index into the position table.
    valid: Ragged, or None where all tokens count.
    enters: None: level 0 stands at the input and gets positions. A block's number: level 0 is put in before that block
        as it is, no token of the segment is there earlier.
    """

    levels: list
    position: torch.Tensor
    valid: Ragged = None
    enters: int = None

    @property
    def depth(self):
        """The last level is written before block depth - 1."""
        return (self.enters or 0) + len(self.levels)

    def written(self, i):
        """The level that is written before block i as it is, or None."""
        level = i - (self.enters or 0)
        first = 1 if self.enters is None else 0
        return self.levels[level] if first <= level < len(self.levels) else None

    @property
    def width(self):
        """P."""
        return self.position.shape[1]

    def narrow(self, images, classes):
        position = self.position[classes] if self.position.shape[0] > 1 else self.position
        valid = None if self.valid is None else self.valid[classes]
        return Segment([_narrow(t, images, classes) for t in self.levels], position, valid, self.enters)

    def rows(self, x):
        """Tokens (b, c, P, w) as rows (b, n, w), padding left out; a ragged segment has c = C."""
        if self.valid is None:
            return x.flatten(1, 2)
        return Pack.apply(x.expand(-1, len(self.valid.lengths), -1, -1).flatten(1, 2), self.valid.index)

    def grid(self, x):
        """The reverse of `rows`, padding zero."""
        if self.valid is None:
            return x.unflatten(1, (-1, self.width))
        full = len(self.valid.lengths) * self.width
        return Unpack.apply(x, self.valid.index, full).unflatten(1, (-1, self.width))

    def grow(self, x, wide):
        """Rows x (b, n, w) for as many images and classes as `wide` (B, C, P, w) has."""
        if self.valid is not None:
            return x.expand(wide.shape[0], -1, -1)
        return self.grid(x).expand(*wide.shape[:2], -1, -1).flatten(1, 2)


def _narrow(tokens, images, classes):
    return narrow(tokens, images, classes) if torch.is_tensor(tokens) else tokens.narrow(images, classes)


@dataclass
class PromptSequence:
    """Segments in order of position, the last of them holding the pooled token of a causal tower.

    pooled: (segment index, (C,) token index in that segment).
    classes: C.
    """

    segments: list
    pooled: tuple
    classes: int

    @property
    def grid(self):
        """(B, C) as far as any token depends on the image; B = 1 otherwise."""
        return max(t.shape[0] for s in self.segments for t in s.levels), self.classes

    @property
    def depth(self):
        """Layers that any segment has tokens for."""
        return max(s.depth for s in self.segments)

    def live_tokens(self, causal):
        """How many tokens have a state in the first layer, over the whole grid; those that see nothing of the image, or
        of the class, are one for all images or classes."""
        sizes, total = [[max(t.shape[axis] for t in s.levels) for axis in (0, 1)] for s in self.segments], 0
        for j, s in enumerate(self.segments):
            images, classes = map(max, zip(*(sizes[: j + 1] if causal else sizes)))
            total += s.width * images * classes * (s.depth == 1)
        return total

    def narrow(self, images, classes):
        """The sequences of some images and classes (slices)."""
        where, index = self.pooled
        segments = [s.narrow(images, classes) for s in self.segments]
        return PromptSequence(segments, (where, index[classes]), len(range(self.classes)[classes]))
