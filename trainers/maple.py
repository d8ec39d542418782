"""MaPLe: multi-modal prompt learning (Khattak et al., CVPR 2023, 2210.03117).

    text prompts  P_0 = ctx, P_1 .. P_{J-1}      each (M, d_t), one set a layer
    visual prompts  F_i(P_i) = W_i P_i + b_i     each (M, d_v): a function of the text's, in the same layer

    learned: J (M d_t + d_t d_v + d_v). Loss: cross-entropy of s v_b . t_c.
"""

import copy

from torch import nn

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .learner import Learner
from .text_prompts import TextPrompts


class MaPLeLearner(Learner):
    """Deep text prompts and the couplings that make visual prompts of them."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.needs_blocks()
        depth = min(node.PROMPT_DEPTH, clip.vision_layers)
        self.text = TextPrompts(clip, self.names, node.N_CTX, depth, node.CTX_INIT, labels=self.classnames)
        first, deeper = (nn.Linear(clip.text_width, clip.vision_width) for _ in range(2))
        copies = [copy.deepcopy(deeper) for _ in range(len(self.text.ctx) - 1)]  # as official: they start alike
        self.couple = nn.ModuleList([first, *copies])

    def visual_prompts(self):
        """J tensors (M, d_v)."""
        return [f(p) for f, p in zip(self.couple, self.text.ctx)]

    def logits(self, images):
        first, *deep = self.visual_prompts()
        return self.score(self.clip.image.encode(images, ctx=first, deep=deep), self.once(self.text.encode))


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Deep prompts of both towers, the image's computed from the text's."""

    learner = MaPLeLearner
    model_name = "MultiModalPromptLearner"
    defaults = {"N_CTX": 2, "CTX_INIT": "a photo of a", "PROMPT_DEPTH": 9, "PREC": "fp32"}
