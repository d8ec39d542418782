"""Which tokens the queries of a segment see."""

import torch


class Sight:
    """Of one prompt: causal towers see what stands before, the others everything; nobody sees padding.

    Args:
        segments: `Segment`s in order of position.
        causal: whether a token sees only itself and what stands before it.
    """

    def __init__(self, segments, causal):
        self.segments, self.causal = segments, causal
        self.there, self._biases = [], {}

    def enter(self, there):
        """`there`: numbers of the segments that the next block reads."""
        if there != self.there:
            self.there, self._biases = there, {}

    def seen(self, j):
        """Segments that segment j looks at."""
        return [k for k in self.there if k <= j or not self.causal]

    def bias(self, j):
        """Additive mask (1, 1 or C, 1, P, keys) of segment j's queries, or None if they see everything; made once."""
        if j not in self._biases:
            position = self.segments[j].position
            self._biases[j] = self._bias(j, torch.arange(position.shape[1], device=position.device)[None])
        return self._biases[j]

    def bias_of_one(self, j, index):
        """The same (1, 1 or C, 1, 1, keys) for one query a class: token index[c] of segment j."""
        return self._bias(j, index[:, None])

    def _bias(self, j, queries):
        """queries: (1 or C, s), which tokens of segment j ask."""
        if self._sees_all(j):
            return None
        visible = [self._visible(j, k, queries) for k in self.seen(j)]
        classes = max(v.shape[0] for v in visible)
        visible = torch.cat([v.expand(classes, -1, -1) for v in visible], dim=-1)
        bias = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))
        return bias[None, :, None]

    def _sees_all(self, j):
        others = [k for k in self.seen(j) if k != j or not self.causal]
        padded = any(self.segments[k].valid is not None for k in others)
        return not padded and (not self.causal or self.segments[j].width == 1)

    def _visible(self, j, k, queries):
        """Whether the queries of segment j see each token of segment k: (1 or C, s, P) bool."""
        segment, asked = self.segments[k], queries.shape[1]
        if k == j and self.causal:
            return torch.arange(segment.width, device=queries.device) <= queries[:, :, None]
        if segment.valid is not None:
            return segment.valid.mask[:, None].expand(-1, asked, -1)
        return torch.ones(1, asked, segment.width, dtype=torch.bool, device=queries.device)
