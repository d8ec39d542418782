"""KgCoOp: knowledge-guided context optimisation (Yao et al., CVPR 2023, 2303.13283).

    loss = cross-entropy + W (1 - mean_c cos(t_c, w_c)),   w_c: text feature of the hand-written template

    learned: ctx (M, d_t), as CoOp's.
"""

import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .coop import CoOpLearner
from .learner import unit
from .templates import ensemble_features


class KgCoOpLearner(CoOpLearner):
    """CoOp held near the template's text features (C, d)."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.register_buffer("teacher", ensemble_features(clip, self.names, [node.TEMPLATE]), persistent=False)

    def loss(self, images, labels):
        t = unit(self.text_features())
        logits = self.score(self.image_features(images), t)
        distance = 1 - (t * self.teacher).sum(-1).mean()
        return F.cross_entropy(logits, labels) + self.node.W * distance, logits


@TRAINER_REGISTRY.register()
class KgCoOp(PromptTrainer):
    """CoOp kept close to the hand-written prompts."""

    learner = KgCoOpLearner
    defaults = {"N_CTX": 4, "CTX_INIT": "a photo of a", "W": 8.0, "TEMPLATE": "a photo of a {}.", "PREC": "fp32"}
