"""CLIP-Adapter (Gao et al., IJCV 2024, 2110.04544).

    A(x) = relu(W2 relu(W1 x)),  W1 (d/4, d), W2 (d, d/4)          x: unit image feature
    x' = RATIO A(x) + (1 - RATIO) x,   logits  s x' . t_c           t_c: text feature of the template

    learned: d^2 / 2. Loss: cross-entropy.
"""

from torch import nn

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .learner import Learner, unit
from .templates import ensemble_features


class CLIPAdapterLearner(Learner):
    """A bottleneck after the frozen image tower, beside fixed text features (C, d)."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        d, hidden = clip.embed_dim, clip.embed_dim // node.REDUCTION
        self.adapter = nn.Sequential(
            nn.Linear(d, hidden, bias=False), nn.ReLU(inplace=True), nn.Linear(hidden, d, bias=False), nn.ReLU()
        )
        self.register_buffer("text_features", ensemble_features(clip, self.names, [node.TEMPLATE]), persistent=False)

    def logits(self, images):
        x, ratio = unit(self.image_features(images)), self.node.RATIO
        x = ratio * self.adapter(x) + (1 - ratio) * x
        return self.score(x, self.text_features) if self.node.RENORM else self.clip.scale() * x @ self.text_features.T


@TRAINER_REGISTRY.register()
class CLIPAdapter(PromptTrainer):
    """A small bottleneck network on the image feature."""

    learner = CLIPAdapterLearner
    defaults = {
        "RATIO": 0.5,
        "REDUCTION": 4,
        "RENORM": True,  # unit length after mixing: cosine logits (BiomedCoOp's version leaves it out)
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }
