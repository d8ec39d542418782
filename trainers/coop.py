"""CoOp: context optimisation (Zhou et al., IJCV 2022, 2109.01134).

Prompt of class c:  [SOS] v_1..v_M <name> . [EOS]   (or the name in the middle, or in front)
    learned: v (M, d_t), or (C, M, d_t) with class-specific context. Loss: cross-entropy of s v_b . t_c.
"""

import torch
from torch import nn

from cilmp.backbones.prompt import per_class, shared
from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .learner import Learner, init_context


class CoOpLearner(Learner):
    """ctx, and the text features it gives."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        ctx, rest = self.initial_context(node, clip.text)
        self.ctx = nn.Parameter(ctx)
        tails = [f"{rest}{n}." for n in self.names]
        place = node.get("CLASS_TOKEN_POSITION", "end")
        self.frame = clip.text.frame(tails, [ctx.shape[-2]], place=place, names=self.names, labels=self.classnames)

    def initial_context(self, node, text):
        """ctx (M, d_t), or (C, M, d_t) where it is class-specific, and words of the phrase that did not fit ("")."""
        if node.CTX_INIT:  # the phrase's own tokens; CSC is honoured only without it, as upstream
            return init_context(text, node.CTX_INIT, len(text.embed_words(node.CTX_INIT.replace("_", " "))))
        shape = (len(self.classnames), node.N_CTX) if node.get("CSC", False) else (node.N_CTX,)
        return torch.empty(*shape, text.width).normal_(std=0.02), ""

    @classmethod
    def bound_to_classes(cls, node):
        specific = node.get("CSC", False) and not node.get("CTX_INIT", "")
        return {"ctx": "class-specific context (CSC) belongs to its classes"} if specific else {}

    def prompts(self):
        ctx = per_class(self.ctx) if self.ctx.dim() == 3 else shared(self.ctx)
        return self.frame.fill([ctx])

    def text_features(self):
        """(C, d), not normalised."""
        return self.clip.text.encode(self.prompts())

    def logits(self, images):
        return self.score(self.image_features(images), self.once(self.text_features))


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Learned context words in front of the class name."""

    learner = CoOpLearner
    defaults = {
        "N_CTX": 16,
        "CSC": False,  # class-specific context
        "CTX_INIT": "",
        "PREC": "fp32",
        "CLASS_TOKEN_POSITION": "end",  # end, middle, front
    }
