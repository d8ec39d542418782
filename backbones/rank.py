"""Prompt tokens that live in a space of rank r, and their keys and values in r + 1 numbers.

A token is x = Bp u with a basis Bp (d_t, r) shared by the whole layer and coordinates u (r numbers). In a
pre-norm block its keys need LayerNorm(x), and of x LayerNorm needs only the variance, a quadratic form in u:

    Bc = (I - 11'/d_t) Bp                         centred basis
    sigma^2 = u' G u + eps,   G = Bc' Bc / d_t    variance of the token
    k = W_k (gamma * Bc u / sigma + beta) + b_k = [W_k diag(gamma) Bc , W_k beta + b_k] . [u / sigma ; 1]
                                                   `------------- P_k (d_t, r+1) ------'   `---- w ----'

so the score q . k is (q P_k) . w, in r + 1 numbers a head, and the values mix as P_v (sum_p a_p w_p). In a
post-norm block keys read x itself: w = [u ; 1] and P_k = [W_k Bp, b_k].
"""

import torch
import torch.nn.functional as F

from .attention import contract


class Basis:
    """Bp, a matrix (d_t, r). Tokens share it if they hold the same Basis: what depends on it is computed once."""

    def __init__(self, matrix):
        self.matrix = matrix


class LowRank:
    """Tokens Bp u: coordinates u (b, c, P, r) in a Basis."""

    def __init__(self, u, basis):
        self.u, self.basis = u, basis

    @property
    def shape(self):
        """(b, c, P, d_t) of the tokens it stands for."""
        return (*self.u.shape[:3], self.basis.matrix.shape[0])

    def dense(self):
        """(b, c, P, d_t)."""
        return F.linear(self.u, self.basis.matrix)

    def narrow(self, images, classes):
        return LowRank(narrow(self.u, images, classes), self.basis)


def narrow(x, images, classes):
    """The part of (b, c, ...) at the given slices; axes of size 1 are shared and stay."""
    x = x[images] if x.shape[0] > 1 else x
    return x[:, classes] if x.shape[1] > 1 else x


class RankMap:
    """The maps P_k, P_v of one block and one basis, transposed: (r + 1, h, e)."""

    def __init__(self, block, basis):
        self.pre = block.norm == "pre"
        if self.pre:
            centred = basis - basis.mean(0)  # Bc (d_t, r)
            self.gram = centred.mT @ centred / basis.shape[0]  # G (r, r)
            self.eps = block.ln1.eps
            rows = torch.cat([block.ln1.weight * centred.mT, block.ln1.bias[None]])
        else:
            rows = F.pad(basis.mT, (0, 0, 0, 1))
        self.key, self.value = (self._through(linear, rows, block.heads) for linear in (block.k, block.v))

    @staticmethod
    def _through(linear, rows, heads):
        out = F.linear(rows, linear.weight.to(rows.dtype))  # (r + 1, d_t): a few rows multiply faster than columns
        if linear.bias is not None:
            out = torch.cat([out[:-1], out[-1:] + linear.bias.to(out.dtype)])
        return out.unflatten(1, (heads, -1))

    def weights(self, u):
        """w (b, c, P, r + 1) of coordinates u (b, c, P, r)."""
        if self.pre:
            variance = (u * (u @ self.gram.to(u.dtype))).sum(-1, keepdim=True)
            u = u * torch.rsqrt(variance + self.eps)
        return F.pad(u, (0, 1), value=1.0)

    def values(self, mixed):
        """(b, c, s, h, e) of sums of weights (b, c, s, h, r + 1)."""
        return torch.einsum("bcshn,nhe->bcshe", mixed, self.value.to(mixed.dtype))


class RankKV:
    """Keys and values of low-rank tokens, never written out in d_t numbers."""

    def __init__(self, u, rank_map):
        self.map = rank_map
        self.w = rank_map.weights(u)

    def scores(self, q, memo):
        """q (b, c, s, h, e) -> (b', c', h, s, P); q P_k is shared by the groups of one map."""
        if self.map not in memo:
            memo[self.map] = torch.einsum("bcshe,nhe->bcshn", q, self.map.key.to(q.dtype))
        return contract("shn,pn->hsp", memo[self.map], self.w.to(q.dtype))

    def mix(self, a):
        """a (b, c, h, s, P) -> sums of weights (b', c', s, h, r + 1)."""
        return contract("hsp,pn->shn", a, self.w.to(a.dtype))
