"""PromptableCLIP: what a method gets to see of a backbone."""

import functools
import hashlib
import math

import torch
from torch import nn

from dassl.utils.paths import slug


class PromptableCLIP(nn.Module):
    """A frozen CLIP in eval mode: text tower, image tower, logit scale and facts.

    Args:
        text, image: TextTower, ImageTower.
        logit_scale: 0-d tensor, the logarithm.
        facts: dict of name, mean, std, interpolation (and anything else worth printing).
    """

    def __init__(self, text, image, logit_scale, facts):
        super().__init__()
        self.text, self.image = text, image
        self.logit_scale = nn.Parameter(torch.as_tensor(logit_scale).detach().float().reshape(()).clone())
        self.facts = dict(facts)
        self.name, self.slug = facts["name"], slug(facts["name"])
        self.mean, self.std = tuple(facts["mean"]), tuple(facts["std"])
        self.interpolation = facts["interpolation"]
        self.embed_dim = self._text_features()
        self._hash = None
        self.eval().requires_grad_(False)

    def _text_features(self):
        """d, from what the projection makes of one zero token."""
        probe = torch.zeros(1, self.text_width, dtype=self.dtype, device=self.device)
        with torch.no_grad():
            return self.text.project(self.text.final_norm(probe)).shape[-1]

    def scale(self):
        """exp(logit_scale): what cosines are multiplied by."""
        return self.logit_scale.exp()

    @property
    def text_width(self):
        return self.text.width

    @property
    def vision_width(self):
        """d_v, or None for towers that no prompt can reach (ResNets, ConvNeXt ...)."""
        return self.image.width

    @property
    def text_layers(self):
        return len(self.text.blocks)

    @property
    def vision_layers(self):
        return len(self.image.blocks)

    @property
    def context_length(self):
        return self.text.context_length

    @property
    def image_size(self):
        return self.image.size

    @property
    def dtype(self):
        return self.text.position.dtype

    @property
    def device(self):
        return self.text.position.device

    @property
    def weights_hash(self):
        """SHA-256 over names, shapes, types and bytes of all weights, taken once."""
        if self._hash is None:
            self._hash = _hash_of(self)
        return self._hash

    @functools.cached_property
    def image_hash(self):
        """The same of the image tower alone, for methods that leave it as it is."""
        return _hash_of(self.image)

    def compile_blocks(self):
        """torch.compile what every block does after its attention (output projection, norms, MLP).

        Whole-model compilation gave gradients 3 % off on CPU (torch 2.15); the blocks alone are equal to eager.
        """
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, 64)  # two widths, with and without gradients, several runs
        for block in [*self.text.blocks, *self.image.blocks]:
            block.finish = _on_rows(torch.compile(block.finish, dynamic=True))
        return self

    def describe(self):
        """One line for logs."""
        count = sum(p.numel() for p in self.parameters()) / 1e6
        vision = f"{self.vision_layers} layers of {self.vision_width}" if self.vision_width else self.image.kind
        return (
            f"{self.name}: {count:.1f} M weights, text {self.text_layers} layers of {self.text_width} (context "
            f"{self.context_length}), vision {vision} at {self.image_size} px, features {self.embed_dim}, "
            f"logit scale {math.exp(self.logit_scale.item()):.2f}"
        )


def _hash_of(module):
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _on_rows(function):
    """A function of (..., w) tensors called with (rows, w): one shape for the compiler, whatever the grid."""

    @functools.wraps(function)
    def call(*tensors):
        return function(*(t.reshape(-1, t.shape[-1]) for t in tensors)).reshape(tensors[0].shape)

    return call
