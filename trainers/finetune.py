"""Fine-tuning of the towers themselves: a reference, not a bound, with few images. Common practice, no paper's recipe.

    ft_clip      both towers, logits s v_b . t_c, class texts encoded in every step
    ft_head      image tower and a head h (C, d) that starts at the text features: s v_b . h_c; bound to its classes
    last_layer   the projections into the joint space alone

Block l of L learns at LR * DECAY^(L - l), embeddings one step lower, the text tower at TEXT_SHARE of that, the head
at HEAD_LR; no weight decay on biases, norms, class token and positions. The logit scale is frozen.
"""

import math

import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from dassl.optim import build_optimizer
from dassl.utils.errors import ConfigError

from .adapted import AdaptedLearner, AdaptedTrainer

MODES = ("ft_clip", "ft_head", "last_layer")
BELOW = ("stem", "token_embedding", "type_embedding", "position", "embed_norm", "pre_norm")  # the first block


class FineTuneLearner(AdaptedLearner):
    """The towers themselves, or a part of them."""

    def adapt(self):
        mode, clip = self.node.MODE, self.clip
        if mode not in MODES:
            raise ConfigError(f"TRAINER.FINETUNE.MODE {mode!r}: choose {', '.join(MODES)}")
        self.live_words = mode == "ft_clip"
        if mode == "ft_clip":
            clip.text.requires_grad_(True)
        if mode == "last_layer":
            for part in (clip.image.head, clip.text.project):
                for p in part.parameters():
                    p.requires_grad_(p.dim() > 1)
        else:
            clip.image.requires_grad_(True)
        if mode == "ft_head":
            with torch.no_grad():
                self.head = nn.Parameter(AdaptedLearner.text_features(self).clone())

    @classmethod
    def bound_to_classes(cls, node):
        return {"head": "a row of its head belongs to a class"} if node.MODE == "ft_head" else {}

    def text_features(self):
        return self.head if self.node.MODE == "ft_head" else super().text_features()


@TRAINER_REGISTRY.register()
class FineTune(AdaptedTrainer):
    """All weights of the towers (or the image tower and a head, or the last projections)."""

    learner = FineTuneLearner
    defaults = {
        "MODE": "ft_clip",  # ft_clip, ft_head, last_layer
        "DECAY": 0.75,  # of the rate, from a block to the one below
        "TEXT_SHARE": 0.1,
        "HEAD_LR": 1e-3,
        "CLIP_NORM": 1.0,  # of all gradients; 0: none
        "MIN_STEPS": 0,  # at least so many steps, whatever OPTIM.MAX_EPOCH
        "WARMUP_SHARE": 0.1,  # of all steps
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if self.asked_precision == "fp16":
            raise ConfigError("TRAINER.FINETUNE.PREC fp16 would train half-precision weights: choose amp, bf16 or fp32")

    def _length(self):
        return max(super()._length(), math.ceil(self.node.MIN_STEPS / len(self.train_loader_x)))

    def build_optimizer(self, trainables):
        groups = {}
        for name, p in trainables:
            decays = p.dim() > 1 and not any(word in name for word in ("position", "prefix", "norm"))
            groups.setdefault((self.rate(name), decays), []).append(p)
        optim = self.cfg.OPTIM
        listed = [{"params": ps, "lr": lr, "weight_decay": optim.WEIGHT_DECAY if decays else 0.0}
                  for (lr, decays), ps in groups.items()]  # fmt: skip
        return build_optimizer(None, optim, listed)

    def rate(self, name):
        """Learning rate of a tensor by its place in the towers."""
        if name == "head":
            return self.node.HEAD_LR
        tower, part, *rest = name.split(".")
        blocks = getattr(self.clip, tower).blocks
        if part == "blocks":
            below = len(blocks) - 1 - int(rest[0])
        else:
            below = len(blocks) if part in BELOW else 0
        return self.cfg.OPTIM.LR * self.node.DECAY**below * (self.node.TEXT_SHARE if tower == "text" else 1)

    def model_update(self, names=None):
        if self.node.CLIP_NORM:
            if self.scaler is not None:
                self.scaler.unscale_(self.optim)
            torch.nn.utils.clip_grad_norm_([p for _, p in self.model.named_trainables()], self.node.CLIP_NORM)
        super().model_update(names)
