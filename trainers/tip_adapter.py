"""Tip-Adapter and Tip-Adapter-F (Zhang et al., ECCV 2022, 2207.09519).

    cache   K (N, d): mean of a train image's features over AUGMENT_EPOCH views, then normalised,  V (N, C): one-hot
    logits  s x . t_c + alpha (exp(-beta (1 - x K')) V)_c                          x: unit image feature

    Tip-Adapter: nothing is trained; alpha and beta by a grid on val. Bound to its classes.
    Tip-Adapter-F: K is trained, N d numbers, cross-entropy; then the grid on val.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .features import deterministic
from .fitting import FitTrainer, labels_of
from .learner import Learner, unit
from .templates import ensemble_features


class TipLearner(Learner):
    """The cache of N training images, beside fixed text features (C, d)."""

    image_key = "plain"
    trained = False

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        labels = labels_of(context.dataset.train_x)
        self.keys = nn.Parameter(torch.zeros(len(labels), clip.embed_dim), requires_grad=self.trained)
        self.register_buffer("values", F.one_hot(labels, len(classnames)).float(), persistent=False)
        self.register_buffer("blend", torch.tensor([node.INIT_ALPHA, node.INIT_BETA]))  # alpha, beta
        self.register_buffer("text_features", ensemble_features(clip, self.names, [node.TEMPLATE]), persistent=False)

    @classmethod
    def bound_to_classes(cls, node):
        return {"keys": "its cache holds the training images of its classes"}

    def logits(self, images):
        x = unit(self.image_features(images))
        return self.mixed(x @ self.keys.T, self.clip.scale() * x @ self.text_features.T, *self.blend)

    def mixed(self, affinity, text_logits, alpha, beta):
        """Affinities (B, N) and text logits (B, C) -> logits (B, C)."""
        return text_logits + alpha * (torch.exp(-beta * (1 - affinity)) @ self.values)

    @torch.no_grad()
    def fit(self, train, val):
        """Fill the cache from ((V, N, d), (N,)), then search."""
        self.keys.copy_(unit(train[0].mean(0)))
        self.search(val)

    @torch.no_grad()
    def search(self, val):
        """alpha and beta with the best accuracy on val ((M, d), (M,)); the first of equals; None: they stay."""
        if val is None:
            return
        x, y = unit(val[0]), val[1]
        affinity, text_logits = x @ self.keys.T, self.clip.scale() * x @ self.text_features.T
        right = lambda logits: (logits.argmax(-1) == y).float().mean().item()  # noqa: E731
        (scale_b, scale_a), (steps_b, steps_a) = self.node.SEARCH_SCALE, self.node.SEARCH_STEP
        best = right(self.mixed(affinity, text_logits, *self.blend))
        for beta in grid(scale_b, steps_b):
            cached = self.mixed(affinity, 0, 1, beta)  # once for all alphas
            for alpha in grid(scale_a, steps_a):
                if (found := right(text_logits + alpha * cached)) > best:
                    best, self.blend[0], self.blend[1] = found, alpha, beta
        print(f"alpha {self.blend[0]:.3f}, beta {self.blend[1]:.3f}: val accuracy {100 * best:.1f}")

    def checkpoint_tensors(self):
        return {"keys": self.keys, "blend": self.blend}


def grid(scale, steps):
    """steps values from 0.1 on, below `scale`."""
    return [i * (scale - 0.1) / steps + 0.1 for i in range(int(steps))]


DEFAULTS = {
    "INIT_ALPHA": 1.0,
    "INIT_BETA": 1.0,
    "SEARCH_SCALE": (50, 50),  # of beta, of alpha
    "SEARCH_STEP": (200, 200),
    "AUGMENT_EPOCH": 10,  # views of each image that make a key
    "TEMPLATE": "a photo of a {}.",
    "PREC": "fp32",
}


@TRAINER_REGISTRY.register()
class TipAdapter(FitTrainer):
    """A cache of training features beside the text, nothing trained."""

    learner = TipLearner
    defaults = DEFAULTS

    def views(self):
        return self.node.AUGMENT_EPOCH


class TipFLearner(TipLearner):
    """The cache, its keys trained."""

    trained = True


@TRAINER_REGISTRY.register()
class TipAdapterF(PromptTrainer):
    """Tip-Adapter with trained keys."""

    learner = TipFLearner
    fits_on_val = True
    lr_per = "step"
    defaults = DEFAULTS

    def build_optimizer(self, trainables):
        optim = self.cfg.OPTIM  # eps as official: 1e-4
        return torch.optim.AdamW([p for _, p in trainables], lr=optim.LR, eps=1e-4, weight_decay=optim.WEIGHT_DECAY)

    def before_train(self):
        views = 1 if deterministic(self.cfg) else self.node.AUGMENT_EPOCH
        found = [self.features("train_loader_x", view) for view in range(views)]
        self.model.fit((torch.stack(found).to(self.device), None), None)
        super().before_train()  # a resumed run takes its trained keys from the checkpoint

    def after_last_epoch(self):
        if items := self.dm.dataset.val:
            self.model.search((self.features("val_loader").to(self.device), labels_of(items).to(self.device)))
