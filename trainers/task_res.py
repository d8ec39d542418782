"""TaskRes: task residual tuning (Yu et al., CVPR 2023, 2211.10277).

    T' = T + ALPHA X      T (C, d): text features as the tower gives them, not normalised; X (C, d): learned from 0  (1)
    logits  s cos(v, t'_c)                                                                                    (2)

    learned: C d. Loss: cross-entropy. Bound to its classes.
"""

import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .learner import Learner
from .templates import mean_features, template_set


class TaskResLearner(Learner):
    """A residual X (C, d) on fixed text features (C, d): the regular base."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        text = mean_features(clip, self.names, template_set(node.TEMPLATES))
        self.register_buffer("text_features", text, persistent=False)
        self.residual = nn.Parameter(torch.zeros_like(text))

    @classmethod
    def bound_to_classes(cls, node):
        return {"residual": "a row of its residual belongs to a class"}

    def logits(self, images):
        return self.score(self.image_features(images), self.text_features + self.node.ALPHA * self.residual)


@TRAINER_REGISTRY.register()
class TaskRes(PromptTrainer):
    """A learned residual on the text classifier."""

    learner = TaskResLearner
    defaults = {
        "ALPHA": 0.5,  # share of the residual
        "TEMPLATES": "a photo of a {}.",  # a set's name (medical, imagenet ...), or templates with ';' between them
        "PREC": "fp32",
    }
