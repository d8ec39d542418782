r"""A method of your own: copy this file, change what the comments point at, and run

    python train.py --plugin my_method.py --trainer MyMethod --dataset phantom --backbone demo --seed 1 \
        --config-file configs/trainers/demo.yaml DATASET.NUM_SHOTS 16
    PLUGIN=my_method.py METHODS="ZeroshotCLIP CoOp MyMethod CILMP" bash scripts/cilmp/base2new.sh

The second compares it with the others: same splits, same evaluation, one table. Any backbone works, as nothing here
knows which one it is.
"""

import torch
from torch import nn

from cilmp.trainers.base import Learner, PromptTrainer, unit
from cilmp.trainers.templates import ensemble_features
from dassl.engine import TRAINER_REGISTRY


class MyLearner(Learner):
    """Example: one learned shift of the text features, shared by all classes."""

    # The image tower is frozen, so `images` may come as their features, which `self.image_features` hands on. Leave it
    # out if you put prompts or adapters into the tower, or want pixels.
    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        # learned: every nn.Parameter. It goes into the optimiser and the checkpoint; the backbone does not.
        self.shift = nn.Parameter(torch.zeros(clip.embed_dim))
        # what depends on the classes is a non-persistent buffer: it is rebuilt for new classes, never loaded
        fixed = ensemble_features(clip, self.names, [node.TEMPLATE])
        self.register_buffer("text_features", fixed, persistent=False)

    def logits(self, images):
        """(B, C). `self.clip.text.encode` takes prompts of yours; see trainers/coop.py."""
        return self.score(self.image_features(images), self.text_features + self.shift)

    def loss(self, images, labels):
        """(loss, logits); leave it out for plain cross-entropy."""
        loss, logits = super().loss(images, labels)
        return loss + self.node.WEIGHT * unit(self.text_features + self.shift).mean().square(), logits


@TRAINER_REGISTRY.register()
class MyMethod(PromptTrainer):
    """One line on the idea: `cilmp list` prints it."""

    learner = MyLearner
    defaults = {"TEMPLATE": "a photo of a {}.", "WEIGHT": 0.1, "PREC": "fp32"}  # the node TRAINER.MYMETHOD
