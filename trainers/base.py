"""What every method shares: a frozen CLIP, a learner, a precision, a checkpoint of what was learned.

A method file holds a `Learner` (what is learned, how logits and loss come from it) and a `PromptTrainer`
subclass that names it and its config defaults. Neither knows which backbone it runs on.
"""

import math
import time

import torch

from cilmp import backbones
from cilmp.backbones.autocast import no_tf32
from dassl.data.data_manager import DatasetWrapper
from dassl.engine import TrainerX
from dassl.engine.base import NonFiniteLoss
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils.errors import ConfigError

from .features import FeatureItems, check_bound, hand_out_features, in_place_of
from .learner import Context, Learner, unit
from .precision import AUTOCAST, in_towers, reproducible, runs_as
from .schedules import cosine_over_steps, laid_over

SMALLEST_SCALE = 2.0**-10  # of a loss in float16; gradients that overflow below it are not finite

__all__ = ["Context", "Learner", "PromptTrainer", "unit"]  # all that a plugin's method needs


class PromptTrainer(TrainerX):
    """Base of all methods: loads and freezes the backbone, builds the learner, trains and checkpoints it alone.

    Class attributes of a method:
        learner: its Learner class.
        defaults: dict of its config node TRAINER.<NAME>.
        needs_llm: whether it reads what a language model says, as llm_form: "rows" (representations) or "sentences".
        trains: False for methods without training.
        draws: a word that changes where a seed draws other random numbers than it did: older runs are not taken.
        fits_on_val: True for methods that choose something on val (besides TEST.FINAL_MODEL best_val).
        transductive: True for methods that see all test images at once (never their labels); tables mark them.
    """

    learner = None
    defaults = {}
    needs_llm = False
    llm_form = "rows"
    trains = True
    transductive = False
    fits_on_val = False
    draws = ""
    model_name = "prompt_learner"
    lr_per = "epoch"  # "step": a cosine over all steps, down to END_LR, after WARMUP_SHARE of them

    @classmethod
    def bound_to_classes(cls, cfg):
        """Why what is learned under this configuration serves no other classes; "" if it does."""
        return next(iter(cls.learner.bound_to_classes(cfg.TRAINER[cls.node_name()]).values()), "")

    @classmethod
    def without_budget(cls):
        return "" if cls.trains else "it trains nothing"

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
        check_bound(cfg)
        if (word := self.asked_precision) not in AUTOCAST:
            raise ConfigError(f"TRAINER.{self.node_name()}.PREC {word!r}: choose {', '.join(AUTOCAST)}")

    def input_facts(self):
        """Image size, mean, std, interpolation and resize mode that the backbone expects."""
        return backbones.input_facts(self.cfg.MODEL.BACKBONE.NAME, self.cfg.MODEL.BACKBONE.WEIGHTS or None)

    def build_learner(self):
        """self.clip and self.model: all that gives logits, nothing that trains. Of the data it reads the class names,
        and what the learner asks its context for."""
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

    def build_model(self):
        cfg = self.cfg
        self.build_learner()
        hand_out_features(self)
        self.scaler, self.max_epoch = None, self._length()
        if cfg.OPTIM.BUDGET:
            self._take_budget(cfg.OPTIM.BUDGET)
        trainables = self.model.named_trainables()
        if not self.model.checkpoint_tensors():
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
        optim = self.cfg.OPTIM
        if self.lr_per != "step" and not self.max_steps:
            return build_lr_scheduler(optimizer, optim)
        if self.lr_per != "step":
            self.lr_per = "step"
            return laid_over(optimizer, lambda o: build_lr_scheduler(o, optim), optim.MAX_EPOCH, self.max_steps)
        steps = self.max_steps or self.max_epoch * len(self.train_loader_x)
        end = self.node.get("END_LR", 0.0) / (optim.LR or math.inf)  # a rate of 0 stays 0
        return cosine_over_steps(optimizer, steps, round(self.node.get("WARMUP_SHARE", 0.0) * steps), end)

    def _length(self):
        """OPTIM.MAX_EPOCH, or the epochs that hold ITERATIONS_PER_SHOT steps a shot where a method counts so."""
        iterations = self.node.get("ITERATIONS_PER_SHOT", 0) * max(self.cfg.DATASET.NUM_SHOTS, 0)
        return math.ceil(iterations / len(self.train_loader_x)) or self.cfg.OPTIM.MAX_EPOCH

    def trained_on(self, classes, dataset):
        if classes is not None:
            self.model.trained_on(classes, dataset in (None, self.cfg.DATASET.NAME))

    def _take_budget(self, budget):
        """Train the steps of (epochs, batch size); the last epoch of one's own batches is cut."""
        if len(budget) != 2 or not all(isinstance(n, int) and n > 0 for n in budget):
            raise ConfigError(f"OPTIM.BUDGET {tuple(budget)}: give (epochs, batch size), whole numbers above 0")
        epochs, batch_size = budget
        self.max_steps = epochs * max(len(self.dm.dataset.train_x) // batch_size, 1)
        self.max_epoch = math.ceil(self.max_steps / len(self.train_loader_x))

    @property
    def stretch(self):
        """Epochs of this run in those of its own configuration: what is counted in epochs is multiplied by it."""
        return self.max_epoch / self.cfg.OPTIM.MAX_EPOCH if self.max_steps else 1.0

    def features(self, loader, epoch=0, transform=None):
        """(N, d) float32 features, not normalised, of all images of a loader; for methods with a frozen image tower.

        Args:
            loader: train_loader_x, val_loader or test_loader.
            epoch: whose random views they are.
            transform: another one than the loader's, that draws nothing.
        """
        items = getattr(self, loader).dataset
        images = items.images if isinstance(items, FeatureItems) else items
        if transform is not None:
            return FeatureItems(self, DatasetWrapper(images.cfg, images.data_source, transform)).of()
        return (items if items is not images else FeatureItems(self, images)).of(epoch)

    def held_out(self, items):
        return in_place_of(self, super().held_out(items))

    def before_epoch(self):
        start, items = time.time(), getattr(self.train_loader_x, "dataset", None)
        if isinstance(items, FeatureItems):  # now, so that steps are timed without the pass over the images
            items.of(self.epoch)
            self.train_seconds += time.time() - start

    def train(self):
        with reproducible(self.device, self.cfg.TRAIN.DETERMINISTIC), no_tf32():  # of backward too
            super().train()

    def parse_batch_train(self, batch):
        return self.parse_batch_test(batch)

    def one_step(self, batch):
        """As often as the scaler leaves the step out because float16 overflowed: its first scale, 65536, often is too
        large for a prompt's gradients, and a run of few steps would end having made none."""
        while True:
            scale = self.scaler and self.scaler.get_scale()
            summary = super().one_step(batch)
            if self.scaler is None or self.scaler.get_scale() >= scale:
                return summary
            if scale < SMALLEST_SCALE:
                self.read_anomaly()
                raise NonFiniteLoss(
                    f"gradients are not finite in float16 at any scale (epoch {self.epoch + 1}, batch "
                    f"{self.batch_idx + 1}): set TRAINER.{self.node_name()}.PREC to bf16 or fp32, or lower OPTIM.LR"
                )

    def forward_backward(self, batch):
        images, labels = self.parse_batch_train(batch)
        loss, logits = self.model.loss(images, labels)
        self.model_backward_and_update(loss)
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
            "transductive": self.transductive,
            "trainable_parameters": sum(p.numel() for _, p in self.model.named_trainables()),
        }
