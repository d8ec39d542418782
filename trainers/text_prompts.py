"""Deep text prompts (IVLP): ctx (J, M, d_t), level 0 at the input, level i written over it before text layer i.

    [SOS] ctx_1..M <rest of the initial phrase> <name> . [EOS]
"""

import torch
from torch import nn

from cilmp.backbones.prompt import shared
from dassl.utils.errors import ConfigError

from .learner import init_context


class TextPrompts(nn.Module):
    """J levels of M context vectors, and the class texts around them.

    Args:
        clip: PromptableCLIP. names: C readable names. labels: C names for messages.
        n_ctx: M. depth: J, cut to the number of text layers. ctx_init: words level 0 starts with ("" = random).

    Raises:
        ConfigError: depth below 1.
    """

    def __init__(self, clip, names, n_ctx, depth, ctx_init="", labels=None):
        super().__init__()
        if depth < 1:
            raise ConfigError(f"PROMPT_DEPTH_TEXT {depth}: text prompts stand at the input at least (1)")
        self._clip = (clip,)
        first, rest = init_context(clip.text, ctx_init, n_ctx)
        deeper = torch.empty(min(depth, clip.text_layers) - 1, *first.shape).normal_(std=0.02)
        self.ctx = nn.Parameter(torch.cat([first[None], deeper]))
        self.frame = clip.text.frame([f"{rest}{n}." for n in names], [n_ctx], labels=labels or names)

    def encode(self):
        """Text features (C, d), not normalised."""
        levels = [shared(level) for level in self.ctx]
        return self._clip[0].text.encode(self.frame.fill(levels))
