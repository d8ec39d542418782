"""Row-wise work on tokens: padding taken out and put back, many tensors as one batch of rows."""

import math

import torch

# Whether torch.export is tracing: its graph is for any number of images and is cut into no pieces, which would fix
# that number. torch 2.6 only tells of tracing as such.
exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def packed(function, *columns):
    """Apply a row-wise function to lists of tensors (..., w) as one batch of rows; lists in, list out."""
    shapes = [x.shape[:-1] for x in columns[0]]
    stacked = [torch.cat([x.reshape(-1, x.shape[-1]) for x in column]) for column in columns]
    parts = function(*stacked).split([math.prod(s) for s in shapes])
    return [p.reshape(*s, p.shape[-1]) for p, s in zip(parts, shapes)]


class Pack(torch.autograd.Function):
    """(b, N, w) -> (b, n, w): the rows at `index`, a row at most once."""

    @staticmethod
    def forward(ctx, x, index):
        ctx.save_for_backward(index)
        ctx.full = x.shape[1]
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx, grad):
        return Unpack.apply(grad, *ctx.saved_tensors, ctx.full), None


class Unpack(torch.autograd.Function):
    """The reverse of `Pack`; rows that are not at `index` are zero."""

    @staticmethod
    def forward(ctx, x, index, full):
        ctx.save_for_backward(index)
        return x.new_zeros(x.shape[0], full, x.shape[2]).index_copy_(1, index, x)

    @staticmethod
    def backward(ctx, grad):
        return Pack.apply(grad, *ctx.saved_tensors), None, None
