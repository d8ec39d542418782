"""LP++ (Huang, Shakeri et al., CVPR 2024, 2404.02285): a linear probe blended with the text, its steps from the data.

    logits  x W' + b + alpha * (x . t)                     x: unit image features (N, d), t: unit text features (C, d)
    start   W_c = sum of class c's features,  alpha_c = 250 mean_c mean_{i in c} x_i . t_c
    steps   W, b: momentum 0.9 every epoch, rate 4 N / lambda_max(X'X) (STEP data) or ETA ln(shots + 1) (STEP shots)
            alpha: every 10th epoch, rate  N / (4 max_c sum_i (x_i . t_c)^2)

    learned: C (d + 2), full batch. Bound to its classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError

from .fitting import FitTrainer
from .learner import Learner, unit
from .templates import ensemble_features

ALPHA_EVERY = 10


class LP2Learner(Learner):
    """W (C, d), b (C,), alpha (C,) beside fixed text features (C, d)."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        linear = nn.Linear(clip.embed_dim, len(classnames))
        self.weight, self.bias = linear.weight, linear.bias
        self.alpha = nn.Parameter(torch.ones(len(classnames)))
        self.register_buffer("text_features", ensemble_features(clip, self.names, [node.TEMPLATE]), persistent=False)

    @classmethod
    def bound_to_classes(cls, node):
        return dict.fromkeys(("weight", "bias", "alpha"), "a row of weights belongs to a class it was fitted on")

    def logits(self, images):
        return self.blend(unit(self.image_features(images)))

    def blend(self, x):
        return x @ self.weight.T + self.bias + self.alpha * (x @ self.text_features.T)

    def start(self, x, y):
        """Values to start with; a class without images starts at zero weight."""
        one_hot = F.one_hot(y, len(self.classnames)).float()
        per_class = (one_hot * (x @ self.text_features.T)).sum(0) / one_hot.sum(0).clamp(min=1)
        with torch.no_grad():
            self.weight.copy_(one_hot.T @ x)
            self.alpha.fill_(250 * per_class[one_hot.sum(0) > 0].mean())

    def rates(self, x, shots):
        """(rate of W and b, rate of alpha)."""
        n, kind = len(x), self.node.STEP
        if kind not in ("data", "shots"):
            raise ConfigError(f"TRAINER.LP2.STEP {kind!r}: choose data or shots")
        largest = torch.linalg.matrix_norm(x, 2) ** 2  # lambda_max of X'X
        steepest = (x @ self.text_features.T).square().sum(0).max()
        return (4 * n / largest if kind == "data" else self.node.ETA * math.log(shots + 1)), n / (4 * steepest)

    @torch.enable_grad()
    def fit(self, train, val):
        """Full-batch epochs; of all epochs the best on val (the latest of equals), without val the last."""
        x, y = unit(train[0]).flatten(0, 1), train[1].repeat(len(train[0]))
        self.start(x, y)
        rate, alpha_rate = self.rates(x, len(y) / len(self.classnames))
        momentum = torch.optim.SGD([self.weight, self.bias], lr=float(rate), momentum=0.9)
        best, kept, total = -1.0, None, torch.zeros_like(self.alpha)
        for epoch in range(1, self.context.cfg.OPTIM.MAX_EPOCH + 1):
            self.zero_grad()
            F.cross_entropy(self.blend(x), y).backward()
            momentum.step()
            total = total + self.alpha.grad if self.node.SUM_ALPHA_GRADIENTS else self.alpha.grad
            if epoch % ALPHA_EVERY == 0:
                self.alpha.data -= alpha_rate * total
            if val is not None and (score := self.accuracy(*val)) >= best:
                best, kept = score, self.checkpoint_state()
        if kept is not None:
            self.load_checkpoint_state(kept)
        self.zero_grad()

    @torch.no_grad()
    def accuracy(self, x, y):
        return (self.blend(unit(x)).argmax(-1) == y).float().mean().item()


@TRAINER_REGISTRY.register()
class LP2(FitTrainer):
    """LP++: a linear probe on image features blended with text logits."""

    learner = LP2Learner
    defaults = {
        "STEP": "data",  # rate of W: data (4 N / lambda_max) or shots (ETA ln(shots + 1))
        "ETA": 1.0,
        "SUM_ALPHA_GRADIENTS": False,  # True: alpha steps by the sum of all gradients so far, as the authors' code
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }
