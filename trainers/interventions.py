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
once for all in evaluation. M for all rows is one product of h with the (D, r r) matrix of columns W_r[i] * W_b[:, j].

Everything carries a leading level axis J: the interventions of all prompted layers are one batched product.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

ROWS_AT_ONCE = 2**20  # numbers of D-wide rows that `hidden` dropout holds at once; fixed, so noise never depends on it


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

        Level by level, because the (D, r r) columns of M are the largest tensors of rank space.
        """
        R = self.rotation()
        if not self.conditional:
            return on_rows(h, self.source - R.mT) + self.source_bias[:, None, None], None
        left, right = self.source.chunk(2, dim=-1)  # W_l, W_r (J, r, D)
        fixed = left + right * self.up_bias[:, None] - R.mT  # (J, r, D)
        w0 = on_rows(h, fixed) + self.source_bias[:, None, None]
        pairs = zip(right.mT.unbind(), self.up.unbind())  # not right[j]: its backward fills J zero tensors of full size
        m = torch.stack([h.flatten(0, 1) @ _columns(*pair) for pair in pairs])  # (J, C P, r r)
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


def _columns(a, b):
    """(D, r r) with column i r + k = a[:, i] * b[:, k], of a, b (D, r)."""
    return (a[:, :, None] * b[:, None]).flatten(1)


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
        maps.append((mask @ _columns(a.mT, r)).unflatten(-1, (A.shape[1],) * 2))  # (C, P, r, r)
    return torch.stack(base)[:, None] + torch.einsum("jcprk,jbcpk->jbcpr", torch.stack(maps), w)


def coordinates_hidden_dropout(h, w, A, R, p):
    """As `coordinates`, with the paper's dropout: a mask per image, class, row and dimension of e, before A.

    The D-wide rows are written out a block at a time and again in backward; blocks are fixed by D alone and each
    has its own generator, so the noise depends on neither batch chunks nor memory.
    """
    seed = int(torch.randint(2**62, ()))  # CPU generator: resumable, and no device sync
    return HiddenDropout.apply(h, w, A, R, p, seed)


class HiddenDropout(torch.autograd.Function):
    """u = A (m * (h + R w)) of every level, m a fresh scaled mask per number; m is drawn again in backward."""

    @staticmethod
    def forward(ctx, h, w, A, R, p, seed):
        ctx.save_for_backward(h, w, A, R)
        ctx.p, ctx.seed = p, seed
        out = torch.empty(w.shape, dtype=w.dtype, device=w.device)
        flat, scale = out.flatten(1, 3), _scale(p)
        for j, at, e, keep in _blocks(h, w.flatten(1, 3), R, p, seed):
            flat[j, at] = scale * (e.mul_(keep) @ A[j].mT)
        return out

    @staticmethod
    def backward(ctx, grad):
        h, w, A, R = ctx.saved_tensors
        rows, grads = w.flatten(1, 3), grad.flatten(1, 3) * _scale(ctx.p)
        grad_w, grad_A, grad_R = torch.empty_like(rows), torch.zeros_like(A), torch.zeros_like(A)  # grad_R' (J, r, D)
        for j, at, e, keep in _blocks(h, rows, R, ctx.p, ctx.seed):
            grad_A[j].addmm_(grads[j, at].mT, e.mul_(keep))
            grad_e = torch.mm(grads[j, at], A[j], out=e).mul_(keep)
            torch.mm(grad_e, R[j], out=grad_w[j, at])
            grad_R[j].addmm_(rows[j, at].mT, grad_e)
        return None, grad_w.view(w.shape), grad_A, grad_R.mT, None, None


def _scale(p):
    """1 / (share kept) of the p that 16 random bits can express (0.1 -> 0.10001)."""
    return 65536 / (65536 - round(p * 65536))


def _blocks(h, rows, R, p, seed):
    """(level, slice, e (n, D), keep (n, D) of 0 and 1) of blocks of rows (J, N, r) in the order (image, class, row).

    e and keep are buffers that the next block overwrites. Four masks come out of each 64 random bits: on CPU a
    seventh of the time of bernoulli_; a mask of floats multiplies in a tenth of the time of masked_fill_.
    """
    base, width = h.flatten(0, 1), h.shape[-1]  # (C P, D): row n of the grid belongs to base[n % (C P)]
    size = min(max(1, ROWS_AT_ONCE // width), rows.shape[1])
    index = torch.arange(rows.shape[1], device=h.device) % base.shape[0]
    rows_e, rows_keep = h.new_empty(size, width), h.new_empty(size, width)
    random = torch.empty(-(-size * width // 4), dtype=torch.int64, device=h.device)
    generator = torch.Generator(h.device)
    for j in range(len(rows)):
        for number, start in enumerate(range(0, rows.shape[1], size)):
            at = slice(start, min(start + size, rows.shape[1]))
            count = at.stop - at.start
            e, keep = rows_e[:count], rows_keep[:count]
            torch.index_select(base, 0, index[at], out=e).addmm_(rows[j, at], R[j].mT)
            generator.manual_seed((seed + j + 1_000_003 * number) % 2**63)
            random.random_(-(2**63), None, generator=generator)
            torch.ge(random.view(torch.int16)[: count * width].view(count, width), round(p * 65536) - 32768, out=keep)
            yield j, at, e, keep


def kaiming(*shape):
    """Kaiming-uniform with a = sqrt 5 over the last axis, as in LoRA and nn.Linear."""
    bound = 1 / math.sqrt(shape[-1])
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
