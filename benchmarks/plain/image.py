"""The image tower in plain form: all tokens through the original blocks, prompts written over before each level."""

import torch


def plain_image(model, images, levels=(), replace="append"):
    """Image features (B, d), not normalised.

    Args:
        model: open_clip CLIP or CustomTextCLIP with a ViT of open_clip or timm.
        levels: prompts (n, d_v) or (B, n, d_v) of the input and of blocks 1, 2, ...
        replace: "append" (after the patches) or "patches" (over the first n of them).
    """
    tower = _Timm(model.visual) if hasattr(model.visual, "trunk") else _Clip(model.visual)
    x = tower.tokens(images)
    S = x.shape[1]
    n = levels[0].shape[-2] if len(levels) else 0
    here = slice(S, S + n) if replace == "append" else slice(tower.prefix, tower.prefix + n)
    if n and replace == "append":
        x = torch.cat([x, x.new_zeros(len(x), n, x.shape[-1])], dim=1)

    def write(x, prompts):
        return torch.cat([x[:, : here.start], prompts.expand(len(x), n, -1), x[:, here.stop :]], dim=1)

    if n:
        x = write(x, levels[0])
    x = tower.before(x)
    for i, block in enumerate(tower.blocks):
        if 0 < i < len(levels):
            x = write(x, levels[i])
        x = block(x)
    return tower.leave(x[:, :S])


def plain_image_late(model, images, levels, enters):
    """(features (B, d), prompts as they end (B, n, d_v), under the norm that the head gives tokens).

    Args:
        levels: prompts (n, d_v), appended before block `enters` and written over before the next blocks.
    """
    tower = _Timm(model.visual) if hasattr(model.visual, "trunk") else _Clip(model.visual)
    x = tower.before(tower.tokens(images))
    S = x.shape[1]
    for i, block in enumerate(tower.blocks):
        if 0 <= i - enters < len(levels):
            x = torch.cat([x[:, :S], levels[i - enters].expand(len(x), -1, -1)], dim=1)
        x = block(x)
    return tower.leave(x[:, :S]), tower.norm(x[:, S:])


class _Clip:
    prefix = 1

    def __init__(self, visual):
        self.visual = visual
        self.blocks, self.before = visual.transformer.resblocks, visual.ln_pre
        self.norm = visual.ln_post

    def tokens(self, images):
        x = self.visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
        return x + self.visual.positional_embedding

    def leave(self, x):
        pooled, _ = self.visual._pool(x)
        return pooled @ self.visual.proj


class _Timm:
    def __init__(self, visual):
        self.visual, self.trunk = visual, visual.trunk
        self.blocks, self.before = self.trunk.blocks, self.trunk.norm_pre
        self.norm = self.trunk.norm
        self.prefix = self.trunk.num_prefix_tokens

    def tokens(self, images):
        return self.trunk._pos_embed(self.trunk.patch_embed(images))

    def leave(self, x):
        return self.visual.head(self.trunk.forward_head(self.trunk.norm(x)))
