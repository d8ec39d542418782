"""Attention of a few query tokens to groups of keys that broadcast differently.

A token group has shape (b, c, P, ...) with b in {1, B} and c in {1, C}: shared by all, per class, per
image, or per image and class. Its keys and values are computed at that size and never expanded:

    softmax over all groups g of  q . k_g / sqrt(e)   -- scores of each group at its own size,
    sum_g  a_g v_g                                    -- concatenated for one softmax, then split again.

Letters: b images, c classes, s query tokens, p key tokens, h heads, e width of a head.
"""

import torch
import torch.nn.functional as F


def contract(equation, x, y):
    """torch.einsum over two operands that carry two more leading axes, images and classes, of size 1 or full.

    `equation` names only the axes after those two, e.g. "she,phe->hsp". An axis of size 1 is left out of the
    product instead of being expanded, so a shared operand enters one large matrix product.
    """
    left, out = equation.split("->")
    a, b = left.split(",")
    ax, ay = _axes(x), _axes(y)
    axes = [l for l in "bc" if l in ax or l in ay]
    z = torch.einsum(f"{''.join(ax)}{a},{''.join(ay)}{b}->{''.join(axes)}{out}", _fold(x), _fold(y))
    for i, letter in enumerate("bc"):
        if letter not in axes:
            z = z.unsqueeze(i)
    return z


def _axes(x):
    return [letter for letter, n in zip("bc", x.shape) if n > 1]


def _fold(x):
    return x.reshape([n for n in x.shape[:2] if n > 1] + list(x.shape[2:]))


class DenseKV:
    """Keys and values of a group, each (b, c, P, h, e)."""

    map = None

    def __init__(self, k, v):
        self.k, self.v = k, v

    def scores(self, q, memo):
        """q (b, c, s, h, e) -> (b', c', h, s, P)."""
        return contract("she,phe->hsp", q, self.k)

    def mix(self, a):
        """a (b, c, h, s, P) -> (b', c', s, h, e)."""
        return contract("hsp,phe->she", a, self.v)


def attend(q, groups, bias=None, drop=0.0):
    """One softmax over several groups of keys.

    Args:
        q: queries (b, c, s, h, e), not yet scaled.
        groups: objects with `scores(q, memo)`, `mix(a)` and `map` (DenseKV, RankKV). What groups of one map mix is
            added up before the map makes values of it; DenseKV mixes values, its map is None.
        bias: None, or additive (1, 1 or C, 1, 1 or s, total keys): -inf where a query must not look.
        drop: dropout of the attention weights.

    Returns:
        (B', C', s, h, e): B' and C' are the union of the query's and the groups' axes.
    """
    q = q * q.shape[-1] ** -0.5
    memo = {}
    scores = [g.scores(q, memo) for g in groups]
    grid = [max(s.shape[i] for s in scores) for i in (0, 1)]
    widths = [s.shape[-1] for s in scores]
    scores = torch.cat([s.expand(*grid, -1, -1, -1) for s in scores], dim=-1)  # (b, c, h, s, sum P)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    weights = scores.softmax(dim=-1).to(q.dtype)
    weights = (F.dropout(weights, drop) if drop else weights).split(widths, dim=-1)
    mixed = {}
    for g, a in zip(groups, weights):
        part = g.mix(a)
        mixed[g.map] = mixed[g.map] + part if g.map in mixed else part
    return sum(part if way is None else way.values(part) for way, part in mixed.items())
