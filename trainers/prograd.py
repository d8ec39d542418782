"""ProGrad: prompt-aligned gradient (Zhu et al., ICCV 2023, 2205.14865).

    g = grad of cross-entropy(z, y),   k = grad of T^2 mean_b( -softmax(z0 / T) . log softmax(z / T) )
    where <g, k> < 0, for each parameter tensor:   g <- g - LAMBDA <g, k> k / |k|^2
    step with g alone; z0 = s v_b . w_c are the zero-shot logits of the hand-written template

    learned: ctx (M, d_t), as CoOp's; with ZEROS before the words of CTX_INIT, as the authors' own runs.
"""

import torch
import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .coop import CoOpLearner
from .templates import ensemble_features


def project(g, k, share=1.0):
    """g without `share` of its component against k; g itself where they agree, or where k is zero."""
    against = (g * k).sum().clamp(max=0)
    return g - share * against / (k * k).sum().clamp(min=torch.finfo(k.dtype).tiny) * k


class ProGradLearner(CoOpLearner):
    """CoOp, and the two losses whose gradients are compared."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.register_buffer("teacher", ensemble_features(clip, self.names, [node.TEMPLATE]), persistent=False)

    def initial_context(self, node, text):
        ctx, rest = super().initial_context(node, text)
        return torch.cat([torch.zeros(node.ZEROS, text.width), ctx]) if node.ZEROS else ctx, rest

    def losses(self, images, labels):
        """(cross-entropy, distillation from zero-shot, logits)."""
        v, T = self.image_features(images), self.node.T
        logits = self.score(v, self.text_features())
        zero_shot = self.score(v, self.teacher)
        kl = F.cross_entropy(logits / T, (zero_shot / T).softmax(-1)) * T**2
        return F.cross_entropy(logits, labels), kl, logits


@TRAINER_REGISTRY.register()
class ProGrad(PromptTrainer):
    """CoOp whose steps never go against the zero-shot model."""

    learner = ProGradLearner
    defaults = {
        "N_CTX": 16,
        "CTX_INIT": "",
        "ZEROS": 0,  # zero vectors before the context; the authors have 12 before the template's four words
        "T": 1.0,  # temperature of the distillation
        "LAMBDA": 1.0,  # share of the opposing component that is removed
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }

    def forward_backward(self, batch):
        images, labels = self.parse_batch_train(batch)
        loss, kl, logits = self.model.losses(images, labels)
        self.model_zero_grad()
        trained = [p for _, p in self.model.named_trainables()]
        align = torch.autograd.grad(self.scaled(kl), trained, retain_graph=True)
        self.model_backward(loss)
        for p, k in zip(trained, align):  # a common scale of both gradients drops out of the projection
            p.grad = project(p.grad, k, self.node.LAMBDA)
        self.model_update()
        accuracy = (logits.detach().argmax(-1) == labels).float().mean() * 100
        return {"loss": loss.detach(), "kl": kl.detach(), "acc": accuracy}

    def scaled(self, loss):
        return loss if self.scaler is None else self.scaler.scale(loss)
