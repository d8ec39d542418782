"""A prompt's pass through the blocks of a text tower in few operations: what a GPU takes in place of `LayerPass`.

`LayerPass` computes every segment at its own size, which is least to multiply and many operations; on a GPU starting
them takes longer than they do. Here tokens of all segments stand side by side at the full grid, padding included, with
one projection, one attention and one MLP a block:

    live    tokens whose outputs somebody needs: one tensor (N, t, w), N = images x classes
    held    tokens that the next level replaces: keys and values only
"""

import math

import torch

from .rank import LowRank


class DensePass:
    """As LayerPass: the same arguments, the same numbers but for rounding."""

    NUMBERS_AT_ONCE = 2**24

    @staticmethod
    def kept(prompts, causal):
        """How many tokens' states are kept: all of the whole grid."""
        return math.prod(prompts.grid) * sum(s.width for s in prompts.segments)

    def __init__(self, prompts, entered, causal, dtype, drop=0.0):
        self.segments, self.dtype, self.drop = prompts.segments, dtype, drop
        self.where, self.index = prompts.pooled
        self.causal, self.grid = causal, prompts.grid
        self.live, self.x = [], None
        self.fresh = {j: self._tokens(x) for j, x in enumerate(entered) if x is not None}
        self._seen = {}

    def through(self, blocks):
        """The pooled token after the last block: (b, c, w)."""
        *body, last = blocks
        for i, block in enumerate(body):
            self._enter(i)
            held = self._live({j for j, s in enumerate(self.segments) if i + 1 >= s.depth})
            y, keys = self._read(block, held)
            self.x = self._block(block, self.x, y, keys, self._sight(held))
        self._enter(len(body))
        held = self._live(set(self.live) | {self.where})
        y, keys = self._read(last, held)
        place = self._place()
        x, y = (t.gather(1, place.expand(-1, 1, t.shape[-1])) for t in (self.x, y))
        sight = self._sight(held)
        if sight is not None:  # the row of the one query
            sight = sight.expand(len(place), -1, -1, -1).gather(2, place[:, None].expand(-1, 1, 1, sight.shape[-1]))
        return self._block(last, x, y, keys, sight).unflatten(0, self.grid).squeeze(2)

    def _tokens(self, tokens):
        """Tokens (b, c, P, w), dense or LowRank, at the full grid: (N, P, w)."""
        tokens = tokens.dense() if isinstance(tokens, LowRank) else tokens
        return tokens.to(self.dtype).expand(*self.grid, -1, -1).flatten(0, 1)

    def _enter(self, i):
        """What the segments have for block i in place of what the block before left there."""
        for j, segment in enumerate(self.segments):
            if (tokens := segment.written(i)) is not None:
                self.fresh[j] = self._tokens(tokens)

    def _live(self, wanted):
        """Bring those of `wanted` that are here into x, in order; the other fresh ones {j: (N, P, w)} are held."""
        new = [j for j in self.fresh if j in wanted]
        if new:
            parts = dict(zip(self.live, self.x.split(self._widths(self.live), dim=1))) if self.live else {}
            parts |= {j: self.fresh.pop(j) for j in new}
            self.live = sorted(parts)
            self.x = torch.cat([parts[j] for j in self.live], dim=1) if len(parts) > 1 else parts[self.live[0]]
        held, self.fresh = self.fresh, {}
        return held

    def _widths(self, segments):
        return [self.segments[j].width for j in segments]

    def _read(self, block, held):
        """What q reads of the live tokens, and what k and v read of all, the held behind them."""
        y = block.attend_input(self.x)
        if not held:
            return y, y
        held = list(held.values())
        rest = block.attend_input(torch.cat(held, dim=1) if len(held) > 1 else held[0])
        return y, torch.cat([y, rest], dim=1)

    def _block(self, block, x, y, keys, sight):
        return block.finish(x, block.mix(block.q(y), block.k(keys), block.v(keys), sight, self.drop))

    # ---- where tokens stand and what they see

    def _place(self):
        """Where the pooled token stands in x: (N, 1, 1)."""
        before = sum(self._widths(j for j in self.live if j < self.where))
        place = self.index + before  # (C,)
        return place.expand(self.grid).reshape(-1, 1, 1)

    def _sight(self, held):
        """Which of all keys each live token sees: (1 or N, 1, t, T) bool, or None if every one sees all; kept while the
        same segments stand there."""
        key = tuple(self.live), tuple(held)
        if key not in self._seen:
            self._seen = {key: self._made_sight(*key)}
        return self._seen[key]

    def _made_sight(self, live, held):
        segments = [self.segments[j] for j in (*live, *held)]
        if not self.causal and all(s.valid is None for s in segments):
            return None
        order, there = self._order(live), [self._there(s) for s in segments]
        classes = max(map(len, there))
        seen = torch.cat([t.expand(classes, -1) for t in there], dim=1)[:, None].expand(-1, len(order), -1)
        if self.causal:
            seen = seen & (self._order((*live, *held)) <= order[:, None])
        if classes > 1:
            seen = seen.expand(self.grid[0], -1, -1, -1).flatten(0, 1)
        return seen[:, None]

    def _order(self, segments):
        """A number for each token of these segments by which all tokens are in order."""
        device, widest = self.index.device, max(self._widths(range(len(self.segments))))
        return torch.cat([torch.arange(self.segments[j].width, device=device) + j * widest for j in segments])

    def _there(self, segment):
        """(1 or C, P) whether a token is none of padding."""
        if segment.valid is not None:
            return segment.valid.mask
        return torch.ones(1, segment.width, dtype=torch.bool, device=self.index.device)
