"""Conditional low-rank interventions on LLM representations, in rank space (CILMP, section III; methods 16.4).

A row h (D numbers) of a class's representation, and an image with unit feature v (d numbers):

    z = W_a v + b_a                         r numbers an image
    g = W_b z + b_b                         a gate in R^D
    q = W_s [h ; g * h] + b_s               the conditioned source, r numbers
    e = h + R (q - R' h)                    the intervened row (LoReFT)
    x = Bp A dropout(e)                     the prompt token; rows that are not intervened: x = Bp A h

Written out, e costs D numbers per image, class, row and level. But with W_s = [W_l W_r]

    w := q - R' h = w0 + M z,   w0 = (W_l + W_r diag(b_b) - R') h + b_s,   M = W_r diag(h) W_b   (r x r)
    u := A e = A h + (A R) w

so a token's coordinates u need r numbers. A h, w0 and M belong to a class and row: once a step in training,
once for all in evaluation. M for all rows is one product of h with the (r r, D) matrix of rows W_r[i] * W_b[:, j].

Everything carries a leading level axis J: the interventions of all prompted layers are one batched product.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .dropped_sums import DroppedSums, pairs_of


class Intervention(nn.Module):
    """Interventions of J levels on rows of width D, conditioned on features of width d.

    Args:
        levels: J. width: D. rank: r. feature_width: d.
        conditional: False drops the gate: q = W_l h + b_s (LoReFT).
        orthogonal: keep R'R = I by a QR decomposition (the official code only starts there).
    """

    def __init__(self, levels, width, rank, feature_width, conditional=True, orthogonal=False):
        super().__init__()
        self.conditional, self.orthogonal = conditional, orthogonal
        self.rotate = nn.Parameter(torch.stack([nn.init.orthogonal_(torch.empty(width, rank)) for _ in range(levels)]))
        self.source, self.source_bias = _linear(levels, 2 * width if conditional else width, rank)
        if conditional:
            self.down, self.down_bias = _linear(levels, feature_width, rank)  # W_a, b_a
            self.up, self.up_bias = _linear(levels, rank, width)  # W_b, b_b

    def rotation(self):
        """R (J, D, r)."""
        return torch.linalg.qr(self.rotate).Q if self.orthogonal else self.rotate

    def source_terms(self, h):
        """The image-free part of w: w0 (J, C, P, r) and M (J, C, P, r, r) or None, of rows h (C, P, D).

        Level by level, because the (r r, D) weights of M are the largest tensors of rank space.
        """
        R = self.rotation()
        if not self.conditional:
            return on_rows(h, self.source - R.mT) + self.source_bias[:, None, None], None
        left, right = self.source.chunk(2, dim=-1)  # W_l, W_r (J, r, D)
        fixed = left + right * self.up_bias[:, None] - R.mT  # (J, r, D)
        w0 = on_rows(h, fixed) + self.source_bias[:, None, None]
        pairs = zip(right.unbind(), self.up.mT.unbind())  # not right[j]: its backward fills J zero tensors of full size
        m = torch.stack([F.linear(h.flatten(0, 1), pairs_of(*pair)) for pair in pairs])  # (J, C P, r r)
        return w0, m.unflatten(1, h.shape[:2]).unflatten(-1, (R.shape[-1],) * 2)

    def differences(self, terms, v):
        """w = q - R'h: (J, B, C, P, r), or (J, 1, C, P, r) without condition. v (B, d) unit features."""
        w0, m = terms
        if m is None:
            return w0[:, None]
        z = torch.einsum("jrd,bd->jbr", self.down, v) + self.down_bias[:, None]
        return w0[:, None] + torch.einsum("jcprk,jbk->jbcpr", m, z)


def _linear(levels, width_in, width_out):
    """J stacked torch.nn.Linear initialisations: weight (J, out, in), bias (J, out)."""
    layers = [nn.Linear(width_in, width_out) for _ in range(levels)]
    weight = nn.Parameter(torch.stack([x.weight.detach() for x in layers]))
    return weight, nn.Parameter(torch.stack([x.bias.detach() for x in layers]))


def on_rows(h, weights):
    """weights (J, n, D) on rows h (C, P, D): (J, C, P, n), one product for all levels."""
    return F.linear(h, weights.flatten(0, 1)).unflatten(-1, weights.shape[:2]).movedim(2, 0)


def coordinates(h, w, A, R):
    """u = A h + (A R) w: (J, B, C, P, r). h (C, P, D), w (J, B, C, P, r), A (J, r, D), R (J, D, r)."""
    return on_rows(h, A)[:, None] + torch.einsum("jbcpk,jrk->jbcpr", w, A @ R)


def coordinates_shared_dropout(h, w, A, R, p):
    """As `coordinates`, with one dropout mask per level, class and row, shared by the images of the batch.

    With m the scaled mask: u = A (m h) + (A diag(m) R) w, so rank space survives. The expectation and the variance
    of a token are those of independent masks; only tokens of different images are correlated.
    """
    keep = 1 - p
    base, maps = [], []
    for a, r in zip(A, R):
        mask = torch.empty(h.shape, device=h.device).bernoulli_(keep).div_(keep)  # (C, P, D)
        base.append((mask * h) @ a.mT)  # (C, P, r)
        maps.append(F.linear(mask, pairs_of(a, r.mT)).unflatten(-1, (A.shape[1],) * 2))  # (C, P, r, r)
    return torch.stack(base)[:, None] + torch.einsum("jcprk,jbcpk->jbcpr", torch.stack(maps), w)


def coordinates_hidden_dropout(h, w, A, R, p):
    """As `coordinates`, with the paper's dropout: a mask per image, class, row and dimension of e, before A.

    With z (0 or 1) what is dropped, A (m e) = (A e - A (z h) - A diag(z) R w) / (1 - p): rank space, and sums over the
    share p of the D dimensions that z drops. No D-wide row is written out.
    """
    seed = int(torch.randint(2**62, ()))  # CPU generator: resumable, and no device sync
    base, maps = DroppedSums.apply(h, A, R, w.shape[1], p, seed)
    lost = base + torch.einsum("jbcprk,jbcpk->jbcpr", maps, w)
    return (coordinates(h, w, A, R) - lost) / (1 - p)


def kaiming(*shape):
    """Kaiming-uniform with a = sqrt 5 over the last axis, as in LoRA and nn.Linear."""
    bound = 1 / math.sqrt(shape[-1])
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
