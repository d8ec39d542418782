"""Zero-shot CLIP (Radford et al., ICML 2021, 2103.00020): logits s v_b . t_c with t_c the text feature of a template.

Nothing is learned.
"""

import torch

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .learner import Learner, unit
from .templates import filled


class ZeroshotLearner(Learner):
    """Text features (C, d) of one template, computed once."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.register_buffer("text_features", self.class_features(), persistent=False)

    def class_features(self):
        """(C, d)."""
        with torch.no_grad():
            return unit(self.clip.text.encode_strings(filled(self.node.TEMPLATE, self.names)))

    def logits(self, images):
        return self.score(self.image_features(images), self.text_features)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """No training: one hand-written template."""

    learner = ZeroshotLearner
    trains = False
    defaults = {"TEMPLATE": "a photo of a {}.", "PREC": "fp32"}
