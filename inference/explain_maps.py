"""Where in an image the evidence for a class lies.

ViT: gradient-weighted attention, rolled out through the layers (Chefer et al., ICCV 2021, 2103.15679). With A the
attention weights (heads, s, K) of a block, y the score of a class and R (K, S) how much of each image token a token
holds, at the start the identity, zero for prompts that enter:

    R_i <- R_i + sum_k mean_h relu(dy/dA * A)_hik R_k            i: the s tokens that the block gives

The map is R's row of the class token; where the head reads all tokens, their rows weighted by |dy/d token|.

Towers of convolutions: Grad-CAM (Selvaraju et al., ICCV 2017, 1610.02391), of the last feature map F

    relu(sum_k mean(dy/dF_k) F_k)

The score y is the class's log-odds, z_c - log sum_{others} exp z: what speaks for it and not for another.
"""

import contextlib
import math

import torch
import torch.nn.functional as F

from dassl.utils.errors import ConfigError


def heat_maps(model, image, classes):
    """(K, H, H) float32 maps of one image for K class numbers, each from 0 to 1 (all 0 where nothing speaks for it).

    Args:
        model: Model. image: (3, H, H), normalised as the model reads it.

    Raises:
        ConfigError: an answer that is not a function of the image, a tower that has neither attention nor maps.
    """
    check(model)
    finder = _ByAttention if len(model.trainer.clip.image.blocks) else _ByConvolution
    with torch.enable_grad(), finder(model.trainer.clip.image) as found:
        odds = log_odds(model.logits(image[None].to(model.device).requires_grad_()))[0]
        maps = [found.map(odds[c], last=c == classes[-1]) for c in classes]
    maps = F.interpolate(torch.stack(maps)[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)).cpu()


def log_odds(logits):
    """log p / (1 - p) of every class, of logits (B, C); of a single class the logit itself."""
    if logits.shape[1] == 1:
        return logits
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None].masked_fill(own, float("-inf")).logsumexp(-1)  # (B, C)
    return logits - others


def check(model):
    if model.transductive:
        raise ConfigError(f"{model.method} answers all images of a call together: no one image explains an answer")
    if not hasattr(model.trainer, "clip"):
        raise ConfigError(f"{model.method} is no method of the toolbox's own kind: its towers can't be looked into")


class _ByAttention(contextlib.AbstractContextManager):
    """Watches an image tower of blocks; `map` is then (side, side)."""

    def __init__(self, tower):
        self.tower, self.stack = tower, contextlib.ExitStack()
        self.patches, self.passes = 0, []  # a pass through the blocks: [own tokens, attentions, tokens at the end]

    def __enter__(self):
        tower = self.tower
        self.stack.callback(tower.stem.register_forward_hook(self._count).remove)
        self._put(tower, "_run", self._running(tower._run))
        self._put(tower, "checkpointing", False)  # a block's weights are wanted once
        for block in tower.blocks:
            self._put(block, "mix", self._mixing(block))
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _count(self, _, __, tokens):
        self.patches = tokens.shape[1] - self.tower.prefix

    def _put(self, module, name, value):
        """An attribute of this instance until the end."""
        if name in module.__dict__:
            self.stack.callback(setattr, module, name, module.__dict__[name])
        else:
            self.stack.callback(delattr, module, name)
        setattr(module, name, value)

    def _running(self, run):
        def runs(x, *args, **kwargs):
            self.passes.append([x.shape[1], [], None])
            out = run(x, *args, **kwargs)
            self.passes[-1][2] = out
            return out

        return runs

    def _mixing(self, block):
        def mix(q, k, v, mask=None):
            q, k, v = (t.unflatten(-1, (block.heads, -1)).transpose(1, 2) for t in (q, k, v))
            weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)  # (B, heads, s, K)
            self.passes[-1][1].append(weights)
            return (weights @ v).transpose(1, 2).flatten(-2)

        return mix

    def map(self, score, last=True):
        """(side, side) of one class's score; passes that the score does not depend on say nothing."""
        total = torch.zeros(self.patches, device=score.device)
        for number, (own, attention, end) in enumerate(self.passes):
            keep = not last or number + 1 < len(self.passes)
            *slopes, at_end = torch.autograd.grad(score, [*attention, end], retain_graph=keep, allow_unused=True)
            if at_end is not None:
                found = rolled_out([a[0] for a in attention], [_or_zero(g, a)[0] for g, a in zip(slopes, attention)],
                                   at_end[0], own)  # fmt: skip
                total[self.patches + self.tower.prefix - own :] += found[self.tower.prefix :]
        side = math.isqrt(self.patches)
        return total.unflatten(0, (side, side))


def _or_zero(gradient, tensor):
    return torch.zeros_like(tensor) if gradient is None else gradient


@torch.no_grad()
def rolled_out(attention, slopes, at_end, own):
    """(S,) how much the tokens at the end hold of each of the S = `own` image tokens, class token included.

    Args:
        attention, slopes: of every block, weights (heads, s, K) and dy/dA. at_end: dy/d tokens at the end (s, w).
    """
    R = torch.eye(own, device=at_end.device)
    for A, slope in zip(attention, slopes):
        gain = (slope * A).float().clamp(min=0).mean(0)  # (s, K)
        R = F.pad(R[: gain.shape[1]], (0, 0, 0, gain.shape[1] - len(R)))
        R = R[: len(gain)] + gain @ R
    weight = at_end.float().norm(dim=-1)
    return weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny) @ R


class _ByConvolution(contextlib.AbstractContextManager):
    """Watches a tower without blocks; `map` is then (h, w), of its last feature map."""

    def __init__(self, tower):
        self.tower, self.hooks, self.seen = tower, [], None

    def __enter__(self):
        for module in self.tower.stem.modules():
            self.hooks.append(module.register_forward_hook(self._look))
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _look(self, module, _, out):
        if not torch.is_tensor(out):
            return
        if out.dim() == 4 and min(out.shape[-2:]) > 1:
            self.seen = out
        elif out.dim() == 3:  # tokens: what was seen before is no last map
            self.seen = None

    def map(self, score, last=True):
        if self.seen is None:
            raise ConfigError(f"an image tower of type {self.tower.kind} has neither attention that can be read nor "
                              f"feature maps: heat maps need a ViT as ViT-B/16, or a ResNet")  # fmt: skip
        slope = torch.autograd.grad(score, self.seen, retain_graph=not last)[0][0]
        return (slope.mean((1, 2), keepdim=True) * self.seen[0]).sum(0).clamp(min=0).detach()


# ---- whether a map says the truth


@torch.no_grad()
def deletion(model, image, heat, c, steps=16, order=None):
    """Mean probability of class c while the image is taken away, the hottest tiles first; lower for a better map.

    A tile is a `steps`-th of the image's side wide and becomes the image's mean colour; a `steps`-th of the tiles goes
    at a time.

    Args:
        image: (3, H, H), normalised. heat: (H, H). order: tiles in another order, (steps^2,).
    """
    if order is None:
        order = F.adaptive_avg_pool2d(heat[None], steps).flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))  # (steps^2,): when a tile goes
    rank = rank.to(image.device).reshape(1, 1, steps, steps).float()
    rank = F.interpolate(rank, size=image.shape[-2:])[0]  # (1, H, H)
    gone = torch.stack([rank < k * steps for k in range(steps + 1)])  # (steps + 1, 1, H, H)
    batch = torch.where(gone, image.mean((1, 2), keepdim=True), image)
    return float(model.logits(batch).softmax(-1)[:, c].mean())


def deletion_at_random(model, image, c, steps=16, orders=4, seed=0):
    """`deletion` in a random order of the tiles, mean over some orders."""
    g = torch.Generator().manual_seed(seed)
    every = [deletion(model, image, None, c, steps, torch.randperm(steps**2, generator=g)) for _ in range(orders)]
    return sum(every) / len(every)
