"""PromptSRC: self-regulating prompts (Khattak et al., ICCV 2023, 2307.06948).

    loss = cross-entropy + TEXT_LOSS_WEIGHT mean|t - w| + IMAGE_LOSS_WEIGHT mean|v - u|
           + LOGITS_LOSS_WEIGHT KL(softmax(s u w) || softmax(s v t)) / C
    w: unit mean of 60 templates' text features,   u: unit features of the frozen image tower
    at the end: Gaussian average of the prompts over epochs (`averaging.py`)

    learned: IVLP's prompts.
"""

import torch
import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY

from .averaging import AveragingMixin, GaussianAverage
from .base import PromptTrainer
from .ivlp import IVLPLearner
from .learner import divergence, unit
from .templates import PROMPTSRC, ensemble_features


class PromptSRCLearner(IVLPLearner):
    """IVLP held near the frozen model, in features and in logits."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        teacher = ensemble_features(clip, self.names, PROMPTSRC, unit_each=False)
        self.register_buffer("teacher", teacher, persistent=False)

    def loss(self, images, labels):
        v, t = unit(self.visual.encode(images)), unit(self.text.encode())
        with torch.no_grad():
            u = unit(self.image_features(images))
            frozen = self.score(u, self.teacher)
        logits, node = self.score(v, t), self.node
        loss = F.cross_entropy(logits, labels)
        loss = loss + node.TEXT_LOSS_WEIGHT * F.l1_loss(t, self.teacher) + node.IMAGE_LOSS_WEIGHT * F.l1_loss(v, u)
        return loss + node.LOGITS_LOSS_WEIGHT * divergence(frozen, logits), logits


@TRAINER_REGISTRY.register()
class PromptSRC(AveragingMixin, PromptTrainer):
    """IVLP regulated by the frozen model, its prompts averaged over epochs."""

    learner = PromptSRCLearner
    model_name = "VLPromptLearner"
    defaults = {
        "N_CTX_TEXT": 4,
        "N_CTX_VISION": 4,
        "CTX_INIT": "a photo of a",
        "PROMPT_DEPTH_TEXT": 9,
        "PROMPT_DEPTH_VISION": 9,
        "TEXT_LOSS_WEIGHT": 25.0,
        "IMAGE_LOSS_WEIGHT": 10.0,
        "LOGITS_LOSS_WEIGHT": 1.0,
        "GPA": True,  # False: the last epoch's prompts
        "GPA_MEAN": 0.0,  # epochs; 0: 15 of 20, other lengths scaled
        "GPA_STD": 0.0,  # epochs; 0: 1 of 20, other lengths scaled
        "PREC": "fp32",
    }

    def averaging(self):
        node, scale = self.node, self.max_epoch / 20
        mean, std = node.GPA_MEAN * self.stretch or 15 * scale, node.GPA_STD * self.stretch or scale
        return GaussianAverage(mean, std, self.max_epoch, keep=lambda name: node.GPA)
