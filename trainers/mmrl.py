"""MMRL: multi-modal representation learning (Guo and Gu, CVPR 2025, 2503.08497).

K tokens of a space that belongs to neither tower, projected into both from layer J on; there they are read beside the
frozen tokens and written over before each layer. In the text they stand behind the start token.

    R (K, d_r),   R_i^v = W_i^v R + b_i^v,   R_i^t = W_i^t R + b_i^t,   i = J .. L
    f_c   (B, d), the image feature as ever, through the frozen projection
    f_r   (B, d), mean over the K tokens as they leave the image tower, through P_r (d_v, d), learned
    z_c = s f_c . w,   z_r = s f_r . w;   w (C, d) texts
    loss  ALPHA CE(z_c) + (1 - ALPHA) CE(z_r) + REG_WEIGHT (1 - cos(f_c, f_0) + 1 - cos(w, w_0))
    test  ALPHA z_c + (1 - ALPHA) z_r on the classes and the data set of the training, z_c alone elsewhere

f_0, w_0: of the frozen towers.

    learned: K d_r + (L - J + 1) (d_r + 1) (d_v + d_t) + d_v d
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from cilmp.backbones.prompt import shared
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError

from .base import PromptTrainer
from .learner import Learner, unit
from .templates import filled


class MMRLLearner(Learner):
    """Representation tokens, their projections into both towers, and that of what they end as."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.needs_blocks()
        texts = filled(node.TEMPLATE, self.names)
        self.frame = clip.text.frame(texts, labels=self.classnames, late=node.N_REP_TOKENS)
        self.text_layers = self._layers(clip.text_layers, "text")
        self.image_layers = self._layers(clip.vision_layers, "image")
        self.tokens = nn.Parameter(torch.empty(node.N_REP_TOKENS, node.REP_DIM).normal_(std=0.02))  # R
        self.to_text = self._projections(clip.text_width, self.text_layers)
        self.to_image = self._projections(clip.vision_width, self.image_layers)
        scale = clip.vision_width**-0.5
        self.project = nn.Parameter(scale * torch.randn(clip.vision_width, clip.embed_dim))  # P_r
        self.fused = True  # whether the tested classes are those of the training
        with torch.no_grad():
            frozen = clip.text.encode(clip.text.frame(texts, labels=self.classnames).fill())
        self.register_buffer("frozen", unit(frozen), persistent=False)  # w_0

    def _layers(self, depth, tower):
        """Consecutive numbers, from 1, of the layers that get tokens; unless set the upper half: 6 to 12 of 12."""
        layers = list(self.node.REP_LAYERS) or list(range(max(1, depth // 2), depth + 1))
        if layers != list(range(layers[0], layers[-1] + 1)) or not 1 <= layers[0] <= layers[-1] <= depth:
            raise ConfigError(
                f"TRAINER.MMRL.REP_LAYERS {layers}: consecutive numbers from 1 to {depth}, the layers of the {tower} "
                f"tower of {self.clip.name}; () takes the upper half of each tower"
            )
        return layers

    def _projections(self, width, layers):
        first = nn.Linear(self.node.REP_DIM, width)
        return nn.ModuleList(copy.deepcopy(first) for _ in layers)  # as official: they start alike

    def trained_on(self, classnames, same_set):
        self.fused = same_set and set(self.classnames) <= set(classnames)

    def text_features(self):
        """w (C, d), not normalised."""
        levels = [shared(f(self.tokens)) for f in self.to_text]
        return self.clip.text.encode(self.frame.fill(late=levels, enters=self.text_layers[0] - 1))

    def both_features(self, images):
        """f_c and f_r, each (B, d), not normalised."""
        levels = [f(self.tokens) for f in self.to_image]
        f_c, ends = self.clip.image.encode_late(images, levels, self.image_layers[0] - 1)
        return f_c, ends.mean(1) @ self.project

    def fuse(self, z_c, z_r):
        return self.node.ALPHA * z_c + (1 - self.node.ALPHA) * z_r

    def logits(self, images):
        f_c, f_r = self.both_features(images)
        w = self.once(self.text_features)
        z_c = self.score(f_c, w)
        return self.fuse(z_c, self.score(f_r, w)) if self.fused else z_c

    def loss(self, images, labels):
        (f_c, f_r), w = self.both_features(images), self.text_features()
        with torch.no_grad():
            f_0 = self.clip.image.encode(images)
        z_c, z_r = self.score(f_c, w), self.score(f_r, w)
        away = 2 - F.cosine_similarity(f_c, f_0).mean() - F.cosine_similarity(w, self.frozen).mean()
        loss = self.fuse(F.cross_entropy(z_c, labels), F.cross_entropy(z_r, labels))
        return loss + self.node.REG_WEIGHT * away, self.fuse(z_c, z_r)


@TRAINER_REGISTRY.register()
class MMRL(PromptTrainer):
    """Tokens of a shared space in the upper layers of both towers, and the feature they end as."""

    learner = MMRLLearner
    model_name = "MultiModalRepresentationLearner"
    defaults = {
        "ALPHA": 0.7,  # share of the class feature
        "REG_WEIGHT": 1.0,
        "N_REP_TOKENS": 5,
        "REP_LAYERS": (),  # numbers from 1; () = the upper half of each tower
        "REP_DIM": 512,
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }
