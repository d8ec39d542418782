"""2SFS: few-shot adaptation in two stages (Farina et al., CVPR 2025, 2503.11609).

    stage 1, a share ALPHA of the steps   scales and shifts of the LayerNorms of both towers;  z = s v . t
    stage 2, the others                   a classifier W (C, d) that starts at t;  z = s v . W_c / |W_c|, towers at rest
    test, class by class                  W_c of a class it was trained on, t_c of any other ("selective inference")

Each stage has a cosine of its own from LR to END_LR. The loss is cross-entropy.

    learned: 4 (sum over blocks of the width) + C d
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError, UserError

from .adapted import AdaptedLearner, AdaptedTrainer
from .learner import readable, unit


class FloatNorm(nn.Module):
    """A LayerNorm with float32 scale and shift, whatever the precision of its tower."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(p.detach().float().clone()) for p in (norm.weight, norm.bias))
        self.eps = norm.eps

    def forward(self, x):
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)


class TwoSFSLearner(AdaptedLearner):
    """The norms of both towers, and a classifier over the classes of the training.

    second: whether there is a classifier yet. seen: the classes of its rows.
    """

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.second, self.seen = False, list(self.classnames)
        self.classifier = nn.Parameter(torch.zeros(len(self.seen), clip.embed_dim))

    def adapt(self):
        if self.node.NORMS not in ("blocks", "all"):
            raise ConfigError(f"TRAINER.TWOSFS.NORMS {self.node.NORMS!r}: choose blocks or all")
        for tower in self.towers():
            whole = getattr(self.clip, tower)
            for name, norm in [(n, m) for n, m in whole.named_modules() if isinstance(m, nn.LayerNorm)]:
                if norm.elementwise_affine and self._learns(name):
                    parent, _, last = name.rpartition(".")
                    setattr(whole.get_submodule(parent), last, FloatNorm(norm))

    def _learns(self, name):
        block = name.split(".")[1] if name.startswith("blocks.") else None
        if block is None:
            return self.node.NORMS == "all"
        return not self.node.LAYERS or int(block) in self.node.LAYERS

    def start_second(self):
        """Stage 2 begins: the classifier is what the texts are now."""
        with torch.no_grad():
            self.classifier.copy_(self.text_features())
        self.second = True

    def text_features(self):
        if not self.second:
            return super().text_features()
        return self.classifier if self.seen == self.classnames else self.selected()

    def selected(self):
        """(C, d): a class's row of the classifier where it has one, else its text through the adapted tower, unit."""
        rows = dict(zip(self.seen, self.classifier))
        novel = [c for c in self.classnames if c not in rows]
        if novel:
            texts = [self.node.TEMPLATE.format(readable(c)) for c in novel]
            rows |= zip(novel, unit(self.clip.text.encode_strings(texts)))
        return torch.stack([rows[c] for c in self.classnames])

    def logits(self, images):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.second and self.training)):
            v = self.clip.image.encode(images)
        return self.score(v, self.once(self.text_features))

    def trained_on(self, classnames, same_set):
        self.seen = list(classnames)

    def checkpoint_tensors(self):
        return {n: p for n, p in super().checkpoint_tensors().items() if n != "classifier"}

    def checkpoint_state(self):
        own = {"classifier": self.classifier.detach().clone()} if self.second else {}
        return super().checkpoint_state() | own

    def load_checkpoint_state(self, state):
        super().load_checkpoint_state({n: t for n, t in state.items() if n != "classifier"})
        rows = state.get("classifier")
        self.second = rows is not None
        if not self.second:
            return
        if rows.shape != (len(self.seen), self.clip.embed_dim):
            raise UserError(
                f"the checkpoint's classifier is {tuple(rows.shape)}, for {len(self.seen)} classes and features of "
                f"{self.clip.embed_dim}; use the run's own config.yaml"
            )
        if rows.shape == self.classifier.shape:
            self.classifier.data.copy_(rows)
        else:
            self.classifier = nn.Parameter(rows.to(self.classifier))


@TRAINER_REGISTRY.register()
class TwoSFS(AdaptedTrainer):
    """The LayerNorms of both towers, then a classifier on top."""

    learner = TwoSFSLearner
    defaults = {
        "ALPHA": 0.6,  # share of the steps in stage 1
        "ENCODER": "both",  # both, text, vision
        "LAYERS": (),  # block numbers; () = all
        "NORMS": "blocks",  # those of the blocks, or all
        "ITERATIONS_PER_SHOT": 0,  # steps = this x shots; 0: OPTIM.MAX_EPOCH
        "END_LR": 1e-6,
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if not 0 <= self.node.ALPHA <= 1:
            raise ConfigError(f"TRAINER.TWOSFS.ALPHA {self.node.ALPHA}: a share of the steps, from 0 to 1")

    @property
    def stages(self):
        """(steps of stage 1, of both)."""
        whole = self.max_steps or self.max_epoch * len(self.train_loader_x)
        return int(self.node.ALPHA * whole), whole

    def build_scheduler(self, optimizer):
        first, whole = self.stages
        end = self.node.END_LR / (self.cfg.OPTIM.LR or math.inf)  # a rate of 0 stays 0

        def factor(step):
            done = step / first if step < first else (step - first) / max(whole - first, 1)
            return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(done, 1)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def forward_backward(self, batch):
        """A tensor that a stage does not learn has no gradient in it, so the one optimiser leaves it alone."""
        if not self.model.second and self.epoch * len(self.train_loader_x) + self.batch_idx >= self.stages[0]:
            self.model.start_second()
        return super().forward_backward(batch)
