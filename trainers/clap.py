"""ZS-LP and CLAP: class-adaptive linear probe (Silva-Rodriguez et al., CVPR 2024, 2312.12730).

    w_c starts at t_c: text feature of a class as the tower gives it, not normalised;  x_i: image features
    logits  s cos(x, w_c)                                                                                     (1)
    lambda_c = mean_{i in c} softmax_c(s cos(x_i, t)): how sure zero-shot is of the class's images            (2)
    loss = cross-entropy + mean_c lambda_c |w_c - t_c|^2;   ZS-LP: cross-entropy alone                        (3)

    learned: C d, on VIEWS views of each image, without any val. A class without images is held at lambda 1. Bound to
    its classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils.errors import ConfigError

from .fitting import FitTrainer
from .learner import Learner
from .templates import mean_features, template_set


class CLAPLearner(Learner):
    """Prototypes w (C, d) beside the text features (C, d) that they start at."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        if node.CONSTRAINT not in ("l2", "none"):
            raise ConfigError(f"TRAINER.CLAP.CONSTRAINT {node.CONSTRAINT!r}: choose l2 or none")
        if node.VIEWS < 1:
            raise ConfigError(f"TRAINER.CLAP.VIEWS {node.VIEWS}: give 1 or more")
        text = mean_features(clip, self.names, template_set(node.TEMPLATES))
        self.register_buffer("text_features", text, persistent=False)
        self.prototypes = nn.Parameter(text.clone())

    @classmethod
    def bound_to_classes(cls, node):
        return {"prototypes": "a prototype belongs to a class it was fitted on"}

    def logits(self, images):
        return self.score(self.image_features(images), self.prototypes)

    @torch.no_grad()
    def multipliers(self, x, y):
        """lambda (C,) of (2) from features (M, d) and labels (M,); zeros without a constraint."""
        if self.node.CONSTRAINT == "none":
            return torch.zeros_like(self.text_features[:, 0])
        one_hot = F.one_hot(y, len(self.classnames)).float()
        count = one_hot.sum(0)
        sure = (self.score(x, self.text_features).softmax(-1) * one_hot).sum(0) / count.clamp(min=1)
        return torch.where(count > 0, sure, 1.0)

    def penalty(self, multipliers):
        """The constraint's term of (3)."""
        return (multipliers * (self.prototypes - self.text_features).square().sum(-1)).mean()

    @torch.enable_grad()
    def fit(self, train, val):
        """Train features ((V, N, d), (N,)): views count as images. An epoch is as many batches as N images make, drawn
        from all views. val is not looked at."""
        x, y = train[0].flatten(0, 1), train[1].repeat(len(train[0]))
        optim, size = self.context.cfg.OPTIM, self.context.cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        multipliers, optimizer = self.multipliers(x, y), build_optimizer([self.prototypes], optim)
        schedule = build_lr_scheduler(optimizer, optim)
        for _ in range(optim.MAX_EPOCH):
            batches = torch.randperm(len(y)).to(y.device).split(size)[: max(len(train[1]) // size, 1)]
            for batch in batches:
                optimizer.zero_grad()
                loss = F.cross_entropy(self.logits(x[batch]), y[batch]) + self.penalty(multipliers)
                loss.backward()
                optimizer.step()
            schedule.step()
        optimizer.zero_grad()


@TRAINER_REGISTRY.register()
class CLAP(FitTrainer):
    """A linear probe that starts at the text and is held near it, class by class."""

    learner = CLAPLearner
    fits_on_val = False
    defaults = {
        "CONSTRAINT": "l2",  # none: ZS-LP
        "VIEWS": 20,  # random views of each image
        "TEMPLATES": "a photo of a {}.",  # a set's name (medical, imagenet ...), or templates with ';' between them
        "PREC": "fp32",
    }

    def views(self):
        return self.node.VIEWS
