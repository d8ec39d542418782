"""One transformer block for every family, with q, k, v and out as Linears of their own.

open_clip and timm keep q, k and v in one matrix, BERT in three; rank space, peft and low-rank adapters want to
reach each alone. `convert` turns a block of any of the three into a `Block` with the same weights, norms
(eps and casts kept) and activation. The towers here are frozen and run in eval mode: dropout is off unless `drop` says.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from dassl.utils.errors import UserError

from .rows import exporting

MLP_AT_ONCE = (2**18, 2**26)  # numbers of the residual stream that go through an MLP at once: on CPU, on a GPU


def by_rows(function, rows, *tensors):
    """function of row-wise tensors (..., w), `rows` rows at a time."""
    if tensors[0].shape[:-1].numel() <= rows:
        return function(*tensors)
    flat = [t.reshape(-1, t.shape[-1]).split(rows) for t in tensors]
    return torch.cat([function(*piece) for piece in zip(*flat)]).reshape(tensors[0].shape)


def dropped(x, p):
    """x under dropout, x itself where p is 0."""
    return F.dropout(x, p) if p else x


class Block(nn.Module):
    """Self-attention and MLP on rows x (..., w).

        pre-norm:   x = x + ls1(out(mix(ln1 x)));   x + ls2(proj(act(fc(ln2 x))))
        post-norm:  x = ln1(x + out(mix(x)));       ln2(x + proj(act(fc(x))))

    Args:
        norm: "pre" (CLIP, timm) or "post" (BERT).
        heads: attention heads.
        parts: modules ln1, q, k, v, out, ln2, fc, act, proj; ls1 and ls2 where the block has layer scale.

    drop: dropout of what the attention and the MLP add to the residual stream.
    """

    drop = 0.0

    def __init__(self, norm, heads, **parts):
        super().__init__()
        self.norm, self.heads = norm, heads
        for name in ("ln1", "q", "k", "v", "out", "ls1", "ln2", "fc", "act", "proj", "ls2"):
            setattr(self, name, parts.pop(name, None) or nn.Identity())
        assert norm in ("pre", "post") and not parts

    @property
    def width(self):
        return self.q.in_features

    def attend_input(self, x):
        """What q, k and v read of the residual stream x."""
        return self.ln1(x) if self.norm == "pre" else x

    def finish(self, x, mixed):
        """Block output from the residual stream x and the attention mix (before `out`), both (..., w)."""
        # Without gradients nothing is kept for backward, so the MLP's wide rows need not stand together. An exported
        # graph is for any number of images and has no pieces.
        if not (torch.is_grad_enabled() or exporting()):
            return by_rows(self._finish, MLP_AT_ONCE[x.device.type == "cuda"] // self.width, x, mixed)
        return self._finish(x, mixed)

    def _finish(self, x, mixed):
        if self.norm == "pre":
            x = x + self.ls1(dropped(self.out(mixed), self.drop))
            return x + self.ls2(dropped(self.proj(self.act(self.fc(self.ln2(x)))), self.drop))
        x = self.ln1(x + dropped(self.out(mixed), self.drop))
        return self.ln2(x + dropped(self.proj(self.act(self.fc(x))), self.drop))

    def forward(self, x, mask=None):
        """Full self-attention over (N, S, w); mask additive or bool (True = look), or None."""
        y = self.attend_input(x)
        return self.finish(x, self.mix(self.q(y), self.k(y), self.v(y), mask))

    def mix(self, q, k, v, mask=None, drop=0.0):
        """Attention of queries (N, s, w) to keys and values (N, S, w): (N, s, w); drop: dropout of its weights."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))  # (N, heads, ., e)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        return mixed.transpose(1, 2).flatten(-2)


def convert(block):
    """A `Block` from a block of open_clip, timm or BERT.

    Raises:
        UserError: a block with parts that `Block` has not (q/k norms, gates, rotary positions ...).
    """
    kind = type(block).__name__
    makers = {"ResidualAttentionBlock": from_open_clip, "Block": from_timm, "BertLayer": from_bert}
    if kind not in makers:
        raise UserError(f"transformer blocks of type {kind}")
    return makers[kind](block)


def from_open_clip(block):
    """Block of an open_clip ResidualAttentionBlock."""
    attn = block.attn
    q, k, v = _split(attn.in_proj_weight, attn.in_proj_bias)
    return Block(
        "pre", attn.num_heads, q=q, k=k, v=v, out=_linear(attn.out_proj.weight, attn.out_proj.bias),
        ln1=block.ln_1, ls1=block.ls_1, ln2=block.ln_2, ls2=block.ls_2,
        fc=block.mlp.c_fc, act=_activation(block.mlp.gelu), proj=block.mlp.c_proj,
    )  # fmt: skip


def from_timm(block):
    """Block of a timm vision_transformer.Block."""
    attn, mlp = block.attn, block.mlp
    extras = [attn.q_norm, attn.k_norm, getattr(attn, "norm", None), getattr(attn, "gate", None), mlp.norm]
    if type(mlp).__name__ != "Mlp" or any(not isinstance(m, (nn.Identity, type(None))) for m in extras):
        raise UserError("timm blocks with q/k norms, scale norms or gates")
    q, k, v = _split(attn.qkv.weight, attn.qkv.bias)
    return Block(
        "pre", attn.num_heads, q=q, k=k, v=v, out=attn.proj,
        ln1=block.norm1, ls1=block.ls1, ln2=block.norm2, ls2=block.ls2, fc=mlp.fc1, act=mlp.act, proj=mlp.fc2,
    )  # fmt: skip


def from_bert(layer):
    """Block of a transformers BertLayer (an encoder layer)."""
    attn = layer.attention
    act = layer.intermediate.intermediate_act_fn
    return Block(
        "post", attn.self.num_attention_heads, q=attn.self.query, k=attn.self.key, v=attn.self.value,
        out=attn.output.dense, ln1=attn.output.LayerNorm, fc=layer.intermediate.dense,
        act=act if isinstance(act, nn.Module) else _Function(act), proj=layer.output.dense,
        ln2=layer.output.LayerNorm,
    )  # fmt: skip


def _split(weight, bias):
    """q, k, v Linears of a fused (3w, w) weight."""
    biases = [None] * 3 if bias is None else bias.chunk(3)
    return [_linear(w, b) for w, b in zip(weight.chunk(3), biases)]


def _linear(weight, bias):
    """A Linear with copies of the given tensors."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x) = silu(1.702 x) / 1.702: backward keeps one tensor of the MLP's width instead of two."""

    def forward(self, x):
        if torch.is_grad_enabled():
            return _QuickGELU.apply(x)
        return F.silu(x.mul(1.702), inplace=True).div_(1.702)


class _QuickGELU(torch.autograd.Function):
    """Its slope is silu'(1.702 x): the factor and the divisor cancel, and are spared in backward."""

    @staticmethod
    def forward(ctx, x):
        x = x * 1.702
        ctx.save_for_backward(x)
        return F.silu(x).div_(1.702)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return torch.ops.aten.silu_backward(grad, *ctx.saved_tensors)


def _activation(module):
    return QuickGELU() if type(module).__name__ == "QuickGELU" else module


class _Function(nn.Module):
    """A plain function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
