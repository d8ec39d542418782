"""Deep visual prompts (VPT on CLIP): M_v tokens after the patches, replaced before each of the first J layers."""

import torch
from torch import nn


class VisualPrompts(nn.Module):
    """J levels of M_v visual prompts (J, M_v, d_v); with none of them, the plain image tower.

    Args:
        learner: the method's. n_ctx: M_v. depth: J, cut to the number of vision layers.
        otherwise: setting with which the method does without them.

    Raises:
        ConfigError: prompts asked of an image tower that they do not reach (ResNets).
    """

    def __init__(self, learner, n_ctx, depth, otherwise="", std=0.02):
        super().__init__()
        self._learner = (learner,)  # in a tuple: no submodule
        clip, self.ctx = learner.clip, None
        if n_ctx == 0 or depth == 0:
            return
        learner.needs_blocks(otherwise)
        levels = min(depth, clip.vision_layers)
        self.ctx = nn.Parameter(torch.empty(levels, n_ctx, clip.vision_width).normal_(std=std))

    @property
    def image_key(self):
        """`Learner.image_key` of a method that does nothing else to the image tower."""
        return "plain" if self.ctx is None else ""

    def encode(self, images):
        """Features (B, d) of images, not normalised."""
        if self.ctx is None:
            return self._learner[0].image_features(images)
        return self._learner[0].clip.image.encode(images, ctx=self.ctx[0], deep=self.ctx[1:])
