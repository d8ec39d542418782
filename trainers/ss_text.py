"""SS-Text and SS-Text+ (Silva-Rodriguez et al., IPMI 2025; MICCAI 2025, 2506.17500): prototypes in closed form.

    x_i unit image features (N of them, n_c of class c), t_c unit text feature, s logit scale
    SS-Text    w_c = s / (N lambda) sum_{i in c} x_i + t_c,        lambda = 1 / N
    SS-Text+   lambda_c = 1 / n_c, then repulsion:   u_c = 2 w_c - mean_j w_j,   w_c <- w_c - u_c / |u_c|
    lambda is at least 1e-3.    logits  s cos(x, w_c)

    learned: C d, without any training or val. A class without images keeps its text. Bound to its classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY

from .fitting import FitTrainer
from .learner import Learner, unit
from .templates import ensemble_features, template_set

SMALLEST = 1e-3  # lambda


class SSTextLearner(Learner):
    """Prototypes w (C, d), from support images and text."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        text = ensemble_features(clip, self.names, template_set(node.TEMPLATES))
        self.register_buffer("text_features", text, persistent=False)
        self.prototypes = nn.Parameter(text.clone())

    @classmethod
    def bound_to_classes(cls, node):
        return {"prototypes": "its prototypes are means of its classes' images"}

    def logits(self, images):
        return self.score(self.image_features(images), self.prototypes)

    @torch.no_grad()
    def fit(self, train, val):
        """Train features ((V, N, d), (N,)): views count as images. val is not looked at."""
        x, y = unit(train[0]).flatten(0, 1), train[1].repeat(len(train[0]))
        one_hot = F.one_hot(y, len(self.classnames)).float()
        count = one_hot.sum(0)  # n_c
        weight = (1 / count.clamp(min=1) if self.node.PLUS else torch.full_like(count, 1 / len(y))).clamp(min=SMALLEST)
        w = self.clip.scale() / (len(y) * weight)[:, None] * (one_hot.T @ x) + self.text_features
        if self.node.PLUS:
            w = w - unit(2 * w - w.mean(0))
        self.prototypes.copy_(w)


@TRAINER_REGISTRY.register()
class SSText(FitTrainer):
    """Class prototypes of text and support images in closed form."""

    learner = SSTextLearner
    fits_on_val = False
    defaults = {
        "PLUS": True,  # SS-Text+: weights by class size, and repulsion; False: SS-Text
        "TEMPLATES": "a photo of a {}.",  # a set's name (medical, imagenet ...), or templates with ';' between them
        "PREC": "fp32",
    }
