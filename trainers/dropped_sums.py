"""What a dropout of D-wide rows takes from their r coordinates (CILMP's dropout before A; see interventions).

With z (0 or 1) what is dropped of row h: A (z h), r numbers, and A diag(z) R, r r numbers. Both are sums of rows of
small tables, (D, r) and (D, r r), over the dropped dimensions. How those are drawn depends on the device:

    Gaps     on a CPU: a random number a success, not a trial, and one bag of table rows a token; no D-wide row
    Masks    on a GPU: z itself, a block of rows at a time, and matrix products; few launches, nothing to sort

Either way noise is a function of seed, level and row alone: rows are drawn in blocks of a fixed number, each with a
seed of its own, and backward draws them again. "Token" here: one row of one image and class.
"""

import math

import torch
import torch.nn.functional as F


def pairs_of(a, b):
    """(r r, D) with row i r + k = a[i] * b[k], of a, b (r, D)."""
    return (a[:, None] * b.contiguous()).flatten(0, 1)


class DroppedSums(torch.autograd.Function):
    """A (z h) (J, B, C, P, r) and A diag(z) R (J, B, C, P, r, r), z fresh for every level, image and row of h.

    Args:
        h: (C, P, D). A: (J, r, D). R: (J, D, r). images: B. p: share that is dropped. seed: of the first level.
    """

    @staticmethod
    def forward(ctx, h, A, R, images, p, seed):
        ctx.save_for_backward(h, A, R)
        ctx.p, ctx.seed, ctx.drawn = p, seed, drawn_on(h.device)
        (J, r, _), grid = A.shape, (images, *h.shape[:2])
        base, maps = A.new_empty(J, math.prod(grid), r), A.new_empty(J, math.prod(grid), r * r)
        for j in range(J):
            tables = A[j].mT.contiguous(), pairs_of(A[j], R[j].mT).mT.contiguous()
            for block in ctx.drawn.blocks(h, base.shape[1], p, seed + j):
                base[j, block.at], maps[j, block.at] = block.sums(*tables)
        return base.view(J, *grid, r), maps.view(J, *grid, r, r)

    @staticmethod
    def backward(ctx, grad_base, grad_maps):
        h, A, R = ctx.saved_tensors
        J, r, D = A.shape
        grad_base, grad_maps = grad_base.reshape(J, -1, r), grad_maps.reshape(J, -1, r * r)
        grad_A, grad_R = torch.empty_like(A), torch.empty_like(R)
        for j in range(J):
            a, pairs = A.new_zeros(D, r), A.new_zeros(D, r * r)  # gradients of the tables
            for block in ctx.drawn.blocks(h, grad_base.shape[1], ctx.p, ctx.seed + j):
                block.add_slopes(a, pairs, grad_base[j, block.at], grad_maps[j, block.at])
            pairs = pairs.mT.contiguous().view(r, r, D)
            grad_A[j] = (pairs * R[j].mT.contiguous()).sum(1).add_(a.mT)
            grad_R[j] = (pairs * A[j][:, None]).sum(0).mT
        return None, grad_A, grad_R, None, None, None


def drawn_on(device):
    """How dropouts are drawn on a device: Gaps or Masks."""
    return Masks if device.type == "cuda" else Gaps


class Drawn:
    """What dropout drops of a block of tokens; `blocks` yields all of them, `at` says which tokens one holds.

    NUMBERS: of D-wide rows that are drawn at once; a block has as many whole rows as that holds.
    """

    @classmethod
    def blocks(cls, h, tokens, p, seed):
        """h: (C, P, D); token n of the grid belongs to row n % (C P)."""
        size, generator = max(1, cls.NUMBERS // h.shape[-1]), torch.Generator(h.device)
        for block, start in enumerate(range(0, tokens, size)):
            generator.manual_seed((seed + 1_000_003 * block) % 2**63)
            yield cls(h, slice(start, min(start + size, tokens)), size, p, generator)


class Masks(Drawn):
    """z: (n, D), the dropped dimensions of a block's n tokens."""

    NUMBERS = 2**23

    def __init__(self, h, at, size, p, generator):
        base, self.at = h.flatten(0, 1), at
        z = h.new_empty(size, h.shape[-1]).bernoulli_(p, generator=generator)  # whole: a row's numbers depend on it
        self.z = z[: at.stop - at.start]
        self.h = base.index_select(0, torch.arange(at.start, at.stop, device=h.device) % len(base))

    def sums(self, a, pairs):
        """(n, r) and (n, r r) of the tables (D, r) and (D, r r)."""
        return (self.z * self.h) @ a, self.z @ pairs

    def add_slopes(self, a, pairs, grad_base, grad_maps):
        """Add to the tables' gradients (D, r) and (D, r r), of those of the sums."""
        a.addmm_((self.z * self.h).mT, grad_base)
        pairs.addmm_(self.z.mT, grad_maps)


class Gaps(Drawn):
    """What is dropped, in order of token and dimension.

    token: int32, counted from the block's first; the block's length marks entries beyond the last token, to be ignored.
    number: of h at the token's row and the dimension. starts: where each token's entries begin, then those beyond.
    """

    NUMBERS = 2**20

    def __init__(self, h, at, size, p, generator):
        base, self.width, self.at = h.flatten(0, 1), h.shape[-1], at
        self.count = at.stop - at.start
        place = _places(self.count * self.width, p, generator, h.device)
        each = torch.arange(self.count + 1, dtype=torch.int32, device=h.device)
        self.starts = torch.searchsorted(place, each * self.width, out_int32=True)
        lengths = torch.diff(self.starts, append=self.starts.new_full((1,), len(place)))
        self.token = each.repeat_interleave(lengths, output_size=len(place))
        row = ((each + at.start) % len(base)).repeat_interleave(lengths, output_size=len(place))
        self.dimension = place.sub_(self.token * self.width).clamp_(max=self.width - 1)
        self.number = h.flatten().index_select(0, row.mul_(self.width).add_(self.dimension))

    def sums(self, a, pairs):
        """(n, r) and (n, r r) of the tables (D, r) and (D, r r): one bag of dimensions a token."""
        return _bags(a, self.dimension, self.starts, self.number), _bags(pairs, self.dimension, self.starts)

    def add_slopes(self, a, pairs, grad_base, grad_maps):
        """Add to the tables' gradients (D, r) and (D, r r), of those of the sums: one bag of tokens a dimension."""
        D = self.width
        each = torch.arange(D + 1, dtype=torch.int16 if D < 2**15 else torch.int32, device=a.device)
        dimension = self.dimension.masked_fill_(self.token == self.count, D).to(each.dtype)
        dimension, order = dimension.sort(stable=True)
        token = self.token.clamp_(max=self.count - 1).index_select(0, order)
        starts = torch.searchsorted(dimension, each, out_int32=True)
        a += _bags(grad_base, token, starts, self.number.index_select(0, order))
        pairs += _bags(grad_maps, token, starts)


def _bags(table, index, starts, weight=None):
    """Sums of table[index] (times weight) over bags that begin at `starts`; the last is left out."""
    return F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=weight)[:-1]


def _places(total, p, generator, device):
    """Where, of `total` independent trials of probability p, one succeeds: int32, ascending; the last lie beyond.

    A random number a success, not a trial. How many there will be is random too: twelve standard deviations more than
    the mean are drawn, so that no device has to be asked (too few: less than once in 1e25 draws).
    """
    draws = min(total, math.ceil(total * p + 12 * math.sqrt(total * p * (1 - p)) + 60))
    steps = _steps(torch.empty(draws, dtype=torch.float32, device=device).uniform_(generator=generator), p)
    return steps.clamp_(max=total).int().cumsum(0, dtype=torch.int32).sub_(1)


def _steps(uniform, p):
    """From one success to the next, of u in [0, 1): geometric, 1 + log(1 - u) / log(1 - p), still to be floored."""
    return uniform.neg_().add_(1).log_().mul_(1 / math.log1p(-p)).add_(1)
