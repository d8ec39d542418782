"""CoCoOp: conditional prompt learning (Zhou et al., CVPR 2022, 2203.05557).

    pi_b = W2 relu(W1 v_b + b1) + b2                  meta-net of the unit image feature, hidden width d // 16
    prompt of class c, image b:  [SOS] ctx_1 + pi_b .. ctx_M + pi_b <name> . [EOS]

    learned: ctx (M, d_t), meta-net. Loss: cross-entropy of s v_b . t_{b,c}.
"""

from collections import OrderedDict

from torch import nn

from cilmp.backbones.prompt import per_image
from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .coop import CoOpLearner
from .learner import unit


class CoCoOpLearner(CoOpLearner):
    """CoOp's context, moved by every image."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        hidden = clip.embed_dim // 16
        self.meta_net = nn.Sequential(OrderedDict([
            ("linear1", nn.Linear(clip.embed_dim, hidden)),
            ("relu", nn.ReLU(inplace=True)),
            ("linear2", nn.Linear(hidden, clip.text_width)),
        ]))  # fmt: skip

    def conditioned(self, v):
        """PromptSequence of unit image features v (B, d)."""
        return self.frame.fill([per_image(self.ctx + self.meta_net(v)[:, None])])

    def logits(self, images):
        v = unit(self.image_features(images))
        return self.score(v, self.clip.text.encode(self.conditioned(v)))


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """CoOp's context shifted by a small network of the image feature."""

    learner = CoCoOpLearner
    defaults = {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp32"}
