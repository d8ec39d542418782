"""One pass of a prompt through the blocks of a text tower, computing only what the pooled token depends on.

    state      of a segment: its rows (b, n, w) as the last block left them, or a level's LowRank tokens, unwritten;
               None where it is still to enter
    level i    replaces a segment's state before block i
    live       segments whose outputs somebody needs: those that the next level does not replace
    last block one query: the pooled token's
"""

import torch

from .attention import DenseKV, attend
from .rank import LowRank, RankKV, RankMap
from .rows import packed
from .sight import Sight


class LayerPass:
    """States of a prompt's segments between the blocks.

    Args:
        prompts: PromptSequence.
        entered: per segment its level 0 as the first block reads it, (b, c, P, w), or None.
        causal: whether a token sees only itself and what stands before it.
        dtype: of the tower.
        drop: dropout of attention weights.

    NUMBERS_AT_ONCE: of tokens whose layer states are kept at once; 4096 tokens of width 512 are about 1.5 GiB over 12
        layers in training. A larger (image, class) grid runs in pieces that are recomputed in backward.
    """

    NUMBERS_AT_ONCE = 2**21

    @staticmethod
    def kept(prompts, causal):
        """How many tokens' states are kept: those that live, shared ones once."""
        return prompts.live_tokens(causal)

    def __init__(self, prompts, entered, causal, dtype, drop=0.0):
        self.segments, self.dtype, self.drop = prompts.segments, dtype, drop
        self.where, self.index = prompts.pooled
        self.states = [None if x is None else s.rows(x) for s, x in zip(self.segments, entered)]
        self.sight = Sight(self.segments, causal)

    def through(self, blocks):
        """The pooled token after the last block: (b, c, w)."""
        *body, last = blocks
        for i, block in enumerate(body):
            self._replace(i)
            self._step(block, [j for j, s in enumerate(self.segments) if i + 1 >= s.depth])
        self._replace(len(body))
        return self._pool(last)

    def _replace(self, i):
        """What a segment has for block i in place of what the block before left there."""
        for j, segment in enumerate(self.segments):
            if (tokens := segment.written(i)) is not None:
                low = isinstance(tokens, LowRank)
                self.states[j] = tokens if low else segment.rows(tokens.to(self.dtype))
        self.sight.enter([j for j, x in enumerate(self.states) if x is not None])

    def _step(self, block, live):
        """The block's outputs in place of the live states; the others stay, they are replaced next."""
        self._write_out(live)
        inputs, groups = self._read(block)
        queries = packed(block.q, [inputs[j] for j in live])
        grown, mixed = [], []
        for j, q in zip(live, queries):
            segment = self.segments[j]
            wide = self._attend(block, j, segment.grid(q), groups, self.sight.bias(j))
            grown.append(segment.grow(self.states[j], wide))
            mixed.append(segment.rows(wide))
        for j, x in zip(live, packed(block.finish, grown, mixed)):
            self.states[j] = x

    def _pool(self, block):
        """The block's output for the pooled token alone: (b, c, w)."""
        j = self.where
        self._write_out([j])
        inputs, groups = self._read(block)
        x, y = self._pooled(self.states[j]), self._pooled(inputs[j])
        mixed = self._attend(block, j, block.q(y), groups, self.sight.bias_of_one(j, self.index))
        return block.finish(x.expand(*mixed.shape[:2], -1, -1), mixed).squeeze(2)

    def _pooled(self, x):
        """Rows of the pooled segment -> its token index[c] of every class: (b, c, 1, w)."""
        x = self.segments[self.where].grid(x)
        if x.shape[2] == 1:
            return x
        if x.shape[1] == 1:
            x = x.expand(-1, len(self.index), -1, -1)
        return x.gather(2, self.index[None, :, None, None].expand(x.shape[0], -1, 1, x.shape[-1]))

    def _write_out(self, live):
        """LowRank states as rows, where outputs are needed."""
        for j in live:
            if isinstance(self.states[j], LowRank):
                self.states[j] = self.segments[j].rows(self.states[j].dense().to(self.dtype))

    def _read(self, block):
        """What q, k and v read of the dense segments {j: rows}, and keys and values of every segment {j: group}."""
        dense = [j for j, x in enumerate(self.states) if torch.is_tensor(x)]
        inputs = packed(block.attend_input, [self.states[j] for j in dense])
        groups = self._low_rank(block)
        for j, k, v in zip(dense, packed(block.k, inputs), packed(block.v, inputs)):
            k, v = (self.segments[j].grid(x).unflatten(-1, (block.heads, -1)) for x in (k, v))
            groups[j] = DenseKV(k, v)
        return dict(zip(dense, inputs)), groups

    def _low_rank(self, block):
        """Keys and values of the LowRank segments; what depends on their basis alone is computed once a basis."""
        low = {j: x for j, x in enumerate(self.states) if isinstance(x, LowRank)}
        maps = {basis: RankMap(block, basis.matrix) for basis in dict.fromkeys(x.basis for x in low.values())}
        return {j: RankKV(x.u, maps[x.basis]) for j, x in low.items()}

    def _attend(self, block, j, q, groups, bias):
        """What segment j's queries q (b, c, s, w) mix: (B, C, s, w)."""
        q = q.unflatten(-1, (block.heads, -1))
        return attend(q, [groups[k] for k in self.sight.seen(j)], bias, self.drop).flatten(-2)
