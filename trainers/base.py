"""What every method shares: a frozen CLIP, a learner, a precision, a checkpoint of what was learned.

A method file holds a `Learner` (what is learned, how logits and loss come from it) and a `PromptTrainer`
subclass that names it and its config defaults. Neither knows which backbone it runs on.
"""

import math
import time

import torch
import torch.nn.functional as F
from torch import nn

import backbones
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils.errors import ConfigError, UserError

from .features import deterministic, features_of, train_on_features
from .precision import AUTOCAST, full_precision, in_towers, runs_as


def unit(x):
    """x divided by its L2 norm over the last axis, float32."""
    return F.normalize(x.float(), dim=-1)


def divergence(teacher, logits):
    """KL(softmax(teacher) || softmax(logits)), mean over all (B, C) entries: a C-th of the usual batch mean."""
    target, own = teacher.log_softmax(-1), logits.log_softmax(-1)
    return F.kl_div(own, target, reduction="sum", log_target=True) / own.numel()


def readable(classname):
    """A class name as it is put into a prompt."""
    return classname.replace("_", " ").strip()


def init_context(text, phrase, n_ctx, std=0.02):
    """Context vectors, and the words of the phrase that did not fit.

    Args:
        text: TextTower.
        phrase: initial words ("" = random).
        n_ctx: number of context vectors M.

    Returns:
        ((M, d_t) float32, words left over as a string that ends in a blank, or "").
    """
    phrase = phrase.replace("_", " ").strip()
    words = text.embed_words(phrase) if phrase else torch.empty(0, text.width)
    if 0 < n_ctx <= len(words):
        taken = next(k for k in range(1, 99) if len(text.embed_words(" ".join(phrase.split()[:k]))) >= n_ctx)
        rest = " ".join(phrase.split()[taken:])
        return words[:n_ctx].clone(), rest + " " if rest else ""
    return torch.empty(n_ctx, text.width).normal_(std=std), ""


class Learner(nn.Module):
    """What one method learns. Holds its own parameters and class-bound buffers, never the backbone's weights.

    Args:
        cfg: the method's config node, TRAINER.<METHOD>.
        clip: PromptableCLIP, frozen.
        classnames: C names in label order.
        context: `Context` with what else a method may need (whole config, dataset, knowledge).
    """

    class_bound = ()  # names of trained tensors that mean nothing for other classes
    image_key = ""  # what is done to a frozen image tower ("plain": nothing); "": the tower is adapted

    def __init__(self, cfg, clip, classnames, context=None):
        super().__init__()
        self.cfg, self.classnames, self.context = cfg, list(classnames), context
        self.names = [readable(c) for c in classnames]
        self._clip = (clip,)  # in a tuple: not a submodule, so not in parameters() nor in the state dict
        self._kept = {}

    @property
    def clip(self):
        return self._clip[0]

    def image_features(self, images):
        """(B, d), not normalised, of images (B, 3, H, W); features (B, d) computed before pass through."""
        return images if images.dim() == 2 else self.clip.image.encode(images)

    def once(self, compute):
        """What compute() gives; in evaluation, where it does not depend on the image, once for all batches.

        compute: a method, or a function that stays the same object; what is kept is kept for it alone.
        """
        if self.training or torch.is_grad_enabled():
            return compute()
        if compute not in self._kept:
            self._kept[compute] = compute()
        return self._kept[compute]

    def train(self, mode=True):
        self._kept = {}
        return super().train(mode)

    def logits(self, images):
        """(B, C) logits of images (B, 3, H, W), or of features where the image tower is frozen."""
        raise NotImplementedError

    @full_precision
    def forward(self, images):
        return self.logits(images)

    def loss(self, images, labels):
        """(scalar loss, logits (B, C)); cross-entropy unless a method says more."""
        logits = self.logits(images)
        return F.cross_entropy(logits, labels), logits

    @full_precision
    def score(self, image_features, text_features):
        """Scaled cosine logits (B, C), float32, of features (B, d) and (C, d) or (B, C, d), none normalised yet."""
        v, t = unit(image_features), unit(text_features)
        cosine = v @ t.mT if t.dim() == 2 else torch.einsum("bd,bcd->bc", v, t)
        return self.clip.scale() * cosine

    def named_trainables(self):
        """(name, parameter) of everything learned; methods that adapt the backbone in place override this."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]

    def checkpoint_state(self):
        return {n: p.detach().clone() for n, p in self.named_trainables()}

    def load_checkpoint_state(self, state):
        """Copy learned tensors in; names and shapes must fit this method and setting.

        Raises:
            UserError: tensors of another method or setting, or bound to other classes.
        """
        own = dict(self.named_trainables())
        self._check_fits(own, state)
        self._kept = {}
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    def _check_fits(self, own, state):
        if missing := sorted(set(own) ^ set(state)):
            raise UserError(
                f"the checkpoint is not of this method and setting: {', '.join(missing[:4])}"
                f"{' ...' if len(missing) > 4 else ''} on one side only; use the run's own config.yaml"
            )
        for name, value in state.items():
            if value.shape != own[name].shape:
                raise UserError(self._shape_message(name, tuple(value.shape), tuple(own[name].shape)))

    def _shape_message(self, name, found, wanted):
        if name in self.class_bound:
            return f"{name} {found} was learned for other classes than these {len(self.classnames)}; retrain on them"
        return (
            f"the checkpoint's {name} is {found}, this setting needs {wanted}: another backbone, LLM, prompt length or "
            f"rank; use the run's own config.yaml"
        )


class Context:
    """What a learner may ask for besides its config node: the whole config, the dataset, the device."""

    def __init__(self, cfg, dataset, device):
        self.cfg, self.dataset, self.device = cfg, dataset, device


class PromptTrainer(TrainerX):
    """Base of all methods: loads and freezes the backbone, builds the learner, trains and checkpoints it alone.

    Class attributes of a method:
        learner: its Learner class.
        defaults: dict of its config node TRAINER.<NAME>.
        needs_llm: whether it reads what a language model says, as llm_form: "rows" (representations) or "sentences".
        trains: False for methods without training.
        class_agnostic: whether what it learned serves other classes (base-to-new, cross-dataset).
    """

    learner = None
    defaults = {}
    needs_llm = False
    llm_form = "rows"
    trains = True
    class_agnostic = True
    why_class_bound = ""
    model_name = "prompt_learner"
    steps_lr_itself = False  # TrainerX steps the learning rate once an epoch
    lr_every_step = False  # True: a cosine over all steps, down to END_LR, after WARMUP_SHARE of them

    @classmethod
    def bound_to_classes(cls, cfg):
        """Why what is learned under this configuration serves no other classes; "" if it does."""
        return "" if cls.class_agnostic else cls.why_class_bound

    @classmethod
    def node_name(cls):
        return cls.__name__.upper()

    @property
    def node(self):
        return self.cfg.TRAINER[self.node_name()]

    @property
    def asked_precision(self):
        return self.node.get("PREC", "fp32")

    @property
    def precision(self):
        """The precision that is really run."""
        return runs_as(self.asked_precision, self.device)

    def check_cfg(self, cfg):
        if (word := self.asked_precision) not in AUTOCAST:
            raise ConfigError(f"TRAINER.{self.node_name()}.PREC {word!r}: choose {', '.join(AUTOCAST)}")

    def input_facts(self):
        """Image size, mean, std and interpolation that the backbone expects."""
        return backbones.input_facts(self.cfg.MODEL.BACKBONE.NAME, self.cfg.MODEL.BACKBONE.WEIGHTS or None)

    def build_model(self):
        cfg = self.cfg
        if self.precision != self.asked_precision:
            print(f"precision {self.asked_precision} needs CUDA: this run is float32 (on a CPU bf16 can be asked for)")
        self.clip = backbones.load(
            cfg.MODEL.BACKBONE.NAME,
            weights=cfg.MODEL.BACKBONE.WEIGHTS or None,
            precision="fp16" if self.precision == "fp16" else "fp32",
            device=self.device,
        )
        self.clip.image.checkpointing = cfg.TRAIN.CHECKPOINTING
        if cfg.TRAIN.COMPILE:
            self.clip.compile_blocks()
        classnames = self.dm.dataset.classnames
        self.model = self.learner(self.node, self.clip, classnames, Context(cfg, self.dm.dataset, self.device))
        self.model.to(self.device)
        in_towers(self.clip, self.precision)  # now: texts that are encoded once were just encoded in float32
        self.scaler, self.max_epoch = None, self._length()
        trainables = self.model.named_trainables()
        if not self.model.checkpoint_state():
            self.optim = self.sched = None
            return
        if self.precision == "amp":
            self.scaler = torch.amp.GradScaler(self.device.type)
        self.optim = self.build_optimizer(trainables)
        self.sched = self.build_scheduler(self.optim)
        self.register_model(self.model_name, self.model, self.optim, self.sched)

    def build_optimizer(self, trainables):
        """Optimiser of [(name, parameter)]."""
        return build_optimizer([p for _, p in trainables], self.cfg.OPTIM)

    def build_scheduler(self, optimizer):
        if not self.lr_every_step:
            return build_lr_scheduler(optimizer, self.cfg.OPTIM)
        self.steps_lr_itself = True
        steps = self.max_epoch * len(self.train_loader_x)
        end = self.node.get("END_LR", 0.0) / self.cfg.OPTIM.LR
        return cosine_over_steps(optimizer, steps, round(self.node.get("WARMUP_SHARE", 0.0) * steps), end)

    def _length(self):
        """OPTIM.MAX_EPOCH, or the epochs that hold ITERATIONS_PER_SHOT steps a shot where a method counts so."""
        iterations = self.node.get("ITERATIONS_PER_SHOT", 0) * max(self.cfg.DATASET.NUM_SHOTS, 0)
        return math.ceil(iterations / len(self.train_loader_x)) or self.cfg.OPTIM.MAX_EPOCH

    def before_train(self):
        every = self.cfg.DATASET.ON_BAD_IMAGE == "error"  # features are kept image by image: none is left out
        if self.model.image_key and self.cfg.TRAIN.CACHE_FEATURES and every and deterministic(self.cfg):
            train_on_features(self)
        super().before_train()

    def parse_batch_train(self, batch):
        return self.parse_batch_test(batch)

    def forward_backward(self, batch):
        images, labels = self.parse_batch_train(batch)
        loss, logits = self.model.loss(images, labels)
        self.model_backward_and_update(loss)
        if self.lr_every_step:
            self.update_lr()
        accuracy = (logits.detach().argmax(-1) == labels).float().mean() * 100
        return {"loss": loss.detach(), "acc": accuracy}

    def model_inference(self, images):
        return self.model(images).float()

    def result_facts(self):
        return {
            "backbone": self.cfg.MODEL.BACKBONE.NAME,
            "weights": self.cfg.MODEL.BACKBONE.WEIGHTS or None,  # None: those the name stands for
            "llm": self.cfg.MODEL.LLM if self.needs_llm else None,
            "precision": self.precision,
            "trainable_parameters": sum(p.numel() for _, p in self.model.named_trainables()),
        }


def cosine_over_steps(optimizer, steps, warmup=0, end=0.0):
    """Schedule stepped every step: linear over `warmup` steps, then a cosine that ends at `end` of the rate."""

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(steps - warmup, 1), 1)
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class FitTrainer(PromptTrainer):
    """Base of methods that are fitted to features of the training images: one pass, no gradient through CLIP.

    `fit(train, val)` of the learner gets ((V, N, d) features as the image tower gives them, (N,) labels) of V views,
    and val's ((M, d), (M,)) or None without a val part.
    """

    class_agnostic = False

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

    def run_epoch(self):
        start, dataset = time.time(), self.dm.dataset
        views = 1 if deterministic(self.cfg) else self.views()
        transform, plain = build_transform(self.cfg, is_train=True), build_transform(self.cfg, is_train=False)
        found = [features_of(self, dataset.train_x, transform, is_train=True, epoch=v) for v in range(views)]
        train, val = (torch.stack(found), labels_of(dataset.train_x)), None
        if dataset.val:
            val = features_of(self, dataset.val, plain), labels_of(dataset.val)
        self.model.fit(*(None if part is None else tuple(x.to(self.device) for x in part) for part in (train, val)))
        self.train_seconds += time.time() - start


def labels_of(items):
    """(N,) int64."""
    return torch.tensor([item.label for item in items])


def methods():
    """{name: trainer class} of the registered methods built on PromptTrainer."""
    found = {n: TRAINER_REGISTRY.get(n) for n in TRAINER_REGISTRY.registered_names()}
    return {n: t for n, t in found.items() if isinstance(t, type) and issubclass(t, PromptTrainer)}
