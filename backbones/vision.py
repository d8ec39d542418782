"""The image tower: visual prompts between the tokens of any ViT, computing only what the feature depends on.

    append     prompts stand after the patches; level 0 enters after the positions, before the first norm (VPT on
               CLIP), level i replaces it before block i
    patches    prompts overwrite the first n patch tokens instead; self-attention has no order, so they are
               taken out and the prompts appended: the same numbers
    overwritten prompts: keys and values only, once for the whole batch
    late       prompts enter before a later block as they are; what they end as can be asked for
    last layer: queries of the pooled tokens only (the class token; every image token where pooling reads all)

Prompts themselves are not pooled by average or attention pooling (replaced patches are).
`benchmarks/plain/image.py` is the same mathematics with the original blocks.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dassl.utils.errors import UserError

from .autocast import own_precision


@dataclass
class ImageParts:
    """Modules and facts of one image tower.

    kind: what it is, for messages ("ViT", "ResNet", "ConvNeXt" ...).
    stem: images (B, 3, H, H) -> tokens (B, S, d_v), positions added; the whole tower if there are no blocks.
    pre_norm: norm before the first block.
    blocks: `Block`s in order; empty for towers that no prompt can reach.
    head: tokens (B, S', d_v) -> (B, d); S' = 1 if `one_token`.
    norm: what the head norms each token with; None where it norms after pooling.
    prefix: tokens before the patches (class token, registers).
    one_token: whether the head reads the first token only.
    """

    kind: str
    stem: nn.Module
    size: int
    pre_norm: nn.Module = None
    blocks: tuple = ()
    head: nn.Module = None
    norm: nn.Module = None
    prefix: int = 0
    one_token: bool = False


class ImageTower(nn.Module):
    """Image side of a PromptableCLIP.

    checkpointing: recompute each block in the backward pass (memory for time).
    autocast: dtype that `encode` computes in, or None.
    """

    autocast = None

    def __init__(self, parts):
        super().__init__()
        self.stem, self.head = parts.stem, parts.head or nn.Identity()
        self.pre_norm = parts.pre_norm or nn.Identity()
        self.blocks = nn.ModuleList(parts.blocks)
        self.kind, self.size, self.prefix, self.one_token = parts.kind, parts.size, parts.prefix, parts.one_token
        self.checkpointing = False
        self._norm = (parts.norm or nn.Identity(),)  # in a tuple: a part of the head

    @property
    def width(self):
        """d_v, or None for towers that no prompt can reach (ResNets, ConvNeXt ...)."""
        return self.blocks[0].width if len(self.blocks) else None

    @property
    def dtype(self):
        return next(self.stem.parameters()).dtype

    @own_precision
    def encode(self, images, ctx=None, deep=(), replace="append", normed=False):
        """Features (B, d), float32, not normalised.

        Args:
            images: (B, 3, H, H), normalised as the backbone's facts say.
            ctx: visual prompts (n, d_v) of the input, or one set an image (B, n, d_v); None for none.
            deep: prompts that replace them before blocks 1..len(deep), each as ctx.
            replace: "append", or "patches" to overwrite the first n patches.
            normed: ctx enters behind the norm before the first block (CLIP's ln_pre), not in front of it.

        Raises:
            UserError: prompts for a tower that none can reach; more levels than layers, or more prompts than patches
                to overwrite; images of another size.
        """
        levels = {} if ctx is None or ctx.shape[-2] == 0 else dict(enumerate([ctx, *deep]))
        self._check(images, levels, replace)
        x = self.stem(images.to(self.dtype))
        if not len(self.blocks):
            return x
        levels = {i: level.to(self.dtype) for i, level in levels.items()}
        if levels and replace == "patches":
            x = self._without_patches(x, levels[0].shape[-2])
        x = self.pre_norm(x)
        if levels and not normed:
            levels[0] = self.pre_norm(levels[0])
        return self.head(self._run(x, levels, replace == "patches" and not self.one_token))

    @own_precision
    def encode_late(self, images, levels, enters):
        """Features (B, d) of images and what late prompts end as, (B, n, d_v) under the head's norm; both float32.

        Args:
            images: (B, 3, H, H), normalised as the backbone's facts say.
            levels: prompts (n, d_v): the first are appended before block number `enters`, the next replace them
                before the next block, and so on; past the last they live on.

        Raises:
            UserError: as `encode`.
        """
        levels = {enters + i: level.to(self.dtype) for i, level in enumerate(levels)}
        self._check(images, levels, "append")
        x = self.pre_norm(self.stem(images.to(self.dtype)))
        own = x.shape[1]
        x = self._run(x, levels, pool_prompts=True, keep=True)
        return self.head(x[:, :own]), self._norm[0](x[:, own:])

    def forward(self, images):
        return self.encode(images)

    def _check(self, images, levels, replace):
        if tuple(images.shape[-2:]) != (self.size, self.size):
            raise UserError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels, this backbone takes {self.size} x "
                f"{self.size}: set INPUT.SIZE to it (or leave it unset)"
            )
        if levels and not len(self.blocks):
            raise UserError(f"visual prompts do not reach an image tower of type {self.kind}: use a ViT")
        if levels and max(levels) >= max(1, len(self.blocks)):
            raise UserError(f"visual prompts for {max(levels) + 1} layers, the image tower has {len(self.blocks)}")
        if replace not in ("append", "patches"):
            raise UserError(f"visual prompts {replace!r}: choose append or patches")

    def _without_patches(self, x, n):
        """Tokens (B, S - n, d_v): the first n patches left out."""
        patches = x.shape[1] - self.prefix
        if n > patches:
            raise UserError(f"{n} visual prompts over {patches} patches: there is no room for more than {patches}")
        return torch.cat([x[:, : self.prefix], x[:, self.prefix + n :]], dim=1)

    def _run(self, x, levels, pool_prompts, keep=False):
        """Tokens the head reads, (B, 1 or S, d_v); keep: all tokens, the prompts behind."""
        final, own = len(self.blocks) - 1, x.shape[1]
        for i, block in enumerate(self.blocks):
            prompts = levels.get(i)
            if i == final:
                rows = None if keep else 1 if self.one_token else None if pool_prompts else own
            else:
                rows = own if i + 1 in levels else None  # outputs that the next level overwrites
            x = self._recompute(_layer, block, x[:, :own] if prompts is not None else x, prompts, rows)
        return x

    def _recompute(self, function, *args):
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


def _layer(block, x, prompts, rows):
    """Block output of the first `rows` tokens (None: all, prompts last).

    x (B, S, d_v) live tokens; prompts (n, d_v), (B, n, d_v) or None: fresh ones, read by everyone.
    """
    y = block.attend_input(x)
    k, v = block.k(y), block.v(y)
    if prompts is not None:
        z = block.attend_input(prompts)
        k, v = _beside(k, block.k(z)), _beside(v, block.v(z))
        if rows is None:
            x, y = _beside(x, prompts), _beside(y, z)
    if rows is not None:
        x, y = x[:, :rows], y[:, :rows]
    return block.finish(x, block.mix(block.q(y), k, v))


def _beside(x, p):
    """(B, S, w) and (n, w) or (B, n, w) -> (B, S + n, w)."""
    return torch.cat([x, p.to(x.dtype).expand(x.shape[0], *p.shape[-2:])], dim=1)
