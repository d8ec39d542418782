"""Linear probe (Radford et al., ICML 2021, appendix A.3): logistic regression on frozen image features.

    logits  x W' + b,   L2 strength by search on val: a coarse grid, then STEPS bisections in log10 around its peak

    learned: C (d + 1), by scikit-learn's L-BFGS. Bound to its classes.
"""

import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY

from .fitting import FitTrainer
from .learner import Learner, unit

COARSE = [1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6]  # scikit-learn's C, large = weak; the first best counts


class LinearProbeLearner(Learner):
    """W (C, d) and b (C,) on unit image features."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.weight = nn.Parameter(torch.zeros(len(classnames), clip.embed_dim))
        self.bias = nn.Parameter(torch.zeros(len(classnames)))

    @classmethod
    def bound_to_classes(cls, node):
        return dict.fromkeys(("weight", "bias"), "a row of weights belongs to a class it was fitted on")

    def logits(self, images):
        return unit(self.image_features(images)) @ self.weight.T + self.bias

    def fit(self, train, val):
        """Train features ((V, N, d), (N,)); without val the strength is the config's C."""
        x, y = unit(train[0]).flatten(0, 1).cpu().numpy(), train[1].repeat(len(train[0])).cpu().numpy()
        held = None if val is None else (unit(val[0]).cpu().numpy(), val[1].cpu().numpy())
        strength = self.node.C if held is None else search(x, y, *held, self.node.STEPS, self.node.KEEP_PEAK)
        print(f"linear probe: C {strength:.3g}" + ("" if val else " (no val part: not searched)"))
        self.take(regression(x, y, strength))

    @torch.no_grad()
    def take(self, model):
        """scikit-learn's weights; classes without any training image are never answered."""
        weight, bias = (torch.from_numpy(t).float() for t in (model.coef_, model.intercept_))
        if len(model.classes_) == 2:  # one row for the second class
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.weight.zero_()
        self.bias.fill_(-1e4)
        seen = torch.from_numpy(model.classes_).to(self.weight.device)
        self.weight[seen], self.bias[seen] = weight.to(self.weight.device), bias.to(self.bias.device)


def regression(x, y, strength):
    from sklearn.linear_model import LogisticRegression  # here: a second, whichever method runs

    return LogisticRegression(C=strength, solver="lbfgs", max_iter=1000).fit(x, y)


def search(x, y, val_x, val_y, steps, keep_peak=True):
    """C with the best accuracy on val: both ends of a bracket are fitted, the worse one moves to the middle.

    keep_peak: the coarse grid's peak wins unless an end is better; False: the better end, as the authors' code has it.
    """
    tried = {}

    def accuracy(strength):
        if strength not in tried:
            tried[strength] = regression(x, y, strength).score(val_x, val_y)
        return tried[strength]

    peak = max(COARSE, key=accuracy)
    end, left, right = peak, peak / 10, peak * 10
    for _ in range(steps):
        middle, end = (left * right) ** 0.5, max((left, right), key=accuracy)
        left, right = (left, middle) if end == left else (middle, right)
    return max((peak, left, right), key=accuracy) if keep_peak else end


@TRAINER_REGISTRY.register()
class LinearProbe(FitTrainer):
    """Logistic regression on frozen image features."""

    learner = LinearProbeLearner
    defaults = {
        "C": 1.0,  # where there is no val part
        "STEPS": 8,
        "KEEP_PEAK": True,  # False: an end of the last bracket, even where the coarse grid's peak is as good
        "PREC": "fp32",
    }
