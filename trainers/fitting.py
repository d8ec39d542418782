"""Methods that are fitted rather than trained."""

import time

import torch

from dassl.engine import TrainerX

from .base import PromptTrainer
from .features import deterministic


class FitTrainer(PromptTrainer):
    """Base of methods that are fitted to features of the training images: one pass, no gradient through CLIP.

    `fit(train, val)` of the learner gets ((V, N, d) features as the image tower gives them, (N,) labels) of V views,
    and val's ((M, d), (M,)) or None without a val part.
    """

    steps = "fitted"
    fits_on_val = True

    @classmethod
    def without_budget(cls):
        return "it is fitted, without optimiser steps"

    def _length(self):
        return 1

    def build_optimizer(self, trainables):
        return None

    def build_scheduler(self, optimizer):
        return None

    def before_train(self):
        TrainerX.before_train(self)

    def views(self):
        """How many random views of each image the fit sees."""
        return 1

    def train_features(self):
        """(V, N, d) of the training images, not normalised: as many random views as the method asks for."""
        views = 1 if deterministic(self.cfg) else self.views()
        return torch.stack([self.features("train_loader_x", view) for view in range(views)])

    def run_epoch(self):
        start, dataset = time.time(), self.dm.dataset
        train, val = (self.train_features(), labels_of(dataset.train_x)), None
        if dataset.val:
            val = self.features("val_loader"), labels_of(dataset.val)
        self.model.fit(*(None if part is None else tuple(x.to(self.device) for x in part) for part in (train, val)))
        self.train_seconds += time.time() - start


def labels_of(items):
    """(N,) int64."""
    return torch.tensor([item.label for item in items], dtype=torch.int64)
