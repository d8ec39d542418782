"""Cross-modal linear probe (Lin et al., CVPR 2023, 2301.06267): a class's texts are further samples of it.

    samples  x_i: unit image features (plain view and its mirror image), t_ck: unit text features of template k
    logits   s x W',  W_c starts at the class's mean text feature, made unit (INIT zeroshot)                  (1)
    loss     cross-entropy over a batch that is half images, half texts                                       (2)
    AdamW, linear warm-up, cosine over ITERATIONS steps; the head of the best of every EVAL_EVERY-th step on val, of the
    best of RATES x WEIGHT_DECAYS x BATCH_SIZES
    WISE_FT r: afterwards W <- (1 - r) W + r (W at the start of INIT zeroshot)                                (3)

    learned: C d. Bound to its classes.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from dassl.optim import LinearWarmupScheduler
from dassl.utils.errors import ConfigError

from .fitting import FitTrainer
from .learner import Learner, unit
from .templates import mean_features, template_set

WARMUP, WARMUP_MIN_LR = 50, 1e-5  # steps; rate of the first


class CrossModalLearner(Learner):
    """W (C, d), and the texts (K C, d) it is trained on: all classes of template 1, then of template 2 ..."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        if node.INIT not in ("zeroshot", "random"):
            raise ConfigError(f"TRAINER.CROSSMODAL.INIT {node.INIT!r}: choose zeroshot or random")
        if not (node.RATES and node.WEIGHT_DECAYS and node.BATCH_SIZES and min(node.BATCH_SIZES) > 1):
            raise ConfigError(
                "TRAINER.CROSSMODAL: RATES, WEIGHT_DECAYS and BATCH_SIZES need a value each, batches 2 or more"
            )
        if min(node.ITERATIONS, node.EVAL_EVERY) < 1:
            raise ConfigError("TRAINER.CROSSMODAL: give ITERATIONS and EVAL_EVERY of 1 or more")
        each = [mean_features(clip, self.names, [template]) for template in template_set(node.TEMPLATES)]
        self.register_buffer("texts", unit(torch.cat(each)), persistent=False)
        self.register_buffer("zero_shot", unit(torch.stack(each).mean(0)), persistent=False)  # (C, d)
        fresh = nn.Linear(clip.embed_dim, len(classnames), bias=False).weight.detach()
        start = self.zero_shot.clone() if node.INIT == "zeroshot" else fresh
        self.weight = nn.Parameter(start)

    @classmethod
    def bound_to_classes(cls, node):
        return {"weight": "a row of weights belongs to a class it was fitted on"}

    def logits(self, images):
        return self.head(unit(self.image_features(images)), self.weight)

    def head(self, x, weight):
        """(1)."""
        return self.clip.scale() * x @ weight.T

    def fit(self, train, val):
        """Train features ((V, N, d), (N,)): views count as images. Without val the first setting's last head."""
        images = unit(train[0]).flatten(0, 1), train[1].repeat(len(train[0]))
        text_labels = torch.arange(len(self.classnames), device=self.texts.device)
        texts = self.texts, text_labels.repeat(len(self.texts) // len(self.classnames))
        held = None if val is None else (unit(val[0]), val[1])
        found, settings = [], self.settings(len(images[1]), len(texts[1]))
        for setting in settings if val else settings[:1]:
            found.append((*self.train_head(images, texts, held, *setting), *setting))
        score, step, weight, rate, decay, size = max(found, key=lambda f: f[0])  # the first of equals
        judged = f"val {100 * score:.1f}" if val else "no val part: not searched"
        print(f"cross-modal: rate {rate:g}, decay {decay:g}, batch {sum(size)}, step {step + 1}: {judged}")
        with torch.no_grad():
            self.weight.copy_(torch.lerp(weight, self.zero_shot, float(self.node.WISE_FT)))

    def settings(self, images, texts):
        """[(rate, decay, (images, texts) of a batch)] of the grid for so many images and texts. A batch must be smaller
        than what it is drawn from, as official; where no size is, the smallest, its halves as large as there are
        samples."""
        node = self.node
        halves = [(size - size // 2, size // 2) for size in node.BATCH_SIZES]
        fits = [(n, m) for n, m in halves if n < images and m < texts]
        fits = fits or [(min(halves[0][0], images), min(halves[0][1], texts))]
        return list(itertools.product(node.RATES, node.WEIGHT_DECAYS, fits))

    @torch.enable_grad()
    def train_head(self, images, texts, held, rate, decay, size):
        """One head from the start: (val accuracy, step, W) of the first best on held ((M, d), (M,)), or of the last.

        Args:
            images, texts: (unit features, labels). size: how many of each a batch holds.
        """
        weight = nn.Parameter(self.weight.detach().clone())
        optimizer = torch.optim.AdamW([weight], lr=rate, weight_decay=decay)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.node.ITERATIONS)
        schedule = LinearWarmupScheduler(optimizer, cosine, WARMUP, WARMUP_MIN_LR)
        drawn, best = [draws(*part, n) for part, n in zip((images, texts), size)], None
        for step in range(self.node.ITERATIONS):
            x, y = (torch.cat(both) for both in zip(*map(next, drawn)))
            optimizer.zero_grad()
            F.cross_entropy(self.head(x, weight), y).backward()
            optimizer.step()
            schedule.step()
            if held is not None and step % self.node.EVAL_EVERY == 0:
                score = self.accuracy(weight, *held)
                if best is None or score > best[0]:
                    best = score, step, weight.detach().clone()
        return best or (0.0, step, weight.detach())

    @torch.no_grad()
    def accuracy(self, weight, x, y):
        return (self.head(x, weight).argmax(-1) == y).float().mean().item()


def draws(x, y, size):
    """Endless batches ((size, d), (size,)): every pass in a new order, its rest that fills no batch left out."""
    while True:
        for batch in torch.randperm(len(y)).to(y.device).split(size)[: len(y) // size]:
            yield x[batch], y[batch]


class Mirrored:
    """A transform, then left and right exchanged."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, image):
        return self.transform(image).flip(-1)

    def __repr__(self):
        return f"Mirrored({self.transform})"


@TRAINER_REGISTRY.register()
class CrossModal(FitTrainer):
    """A linear probe on images and class texts alike."""

    learner = CrossModalLearner
    defaults = {
        "INIT": "zeroshot",  # or random
        "FLIP": True,  # train on the mirror images, too
        "RATES": (1e-3, 1e-4),
        "WEIGHT_DECAYS": (0.0, 0.01, 1e-4),
        "BATCH_SIZES": (8, 32),  # half of it images, half texts
        "ITERATIONS": 12800,
        "EVAL_EVERY": 100,  # steps from one look at val to the next
        "WISE_FT": 0.0,  # share of the zero-shot weights mixed in afterwards (theirs: 0.5)
        "TEMPLATES": "a photo of a {}.",  # a set's name (medical, imagenet ...), or templates with ';' between them
        "PREC": "fp32",
    }

    def train_features(self):
        """(V, N, d): the plain view and, with FLIP where the data set allows it, its mirror image."""
        plain = build_transform(self.cfg, is_train=False)
        transforms = [plain, *([Mirrored(plain)] if self.node.FLIP and self.dm.cfg.DATASET.FLIP else [])]
        return torch.stack([self.features("train_loader_x", transform=t) for t in transforms])
