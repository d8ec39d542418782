"""TrainerBase: models, optimisers and schedules by name, their steps, checkpoints and the training loop."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from dassl.utils.errors import MissingFile, UserError
from dassl.utils.torchtools import BEST, load_checkpoint, save_checkpoint

from .checkpoint import (
    INTERRUPTED,
    PREFIX,
    last_common_checkpoint,
    load_model_state,
    model_state,
    newest,
    rng_state,
    set_rng_state,
)
from .wandb_writer import WandB


class NonFiniteLoss(UserError, FloatingPointError):
    """The loss is infinite or NaN."""


class TrainerBase:
    """Holds models, optimisers and schedules by name; saves, resumes and steps them."""

    def __init__(self):
        self._models, self._optims, self._scheds = OrderedDict(), OrderedDict(), OrderedDict()
        self._writer = self._wandb = None
        self._rolling = None  # epochs of the last checkpoint that only serves a restart; told by those after it
        self._within = {}  # while a checkpoint within an epoch is written: its batch and what it began with
        self._lr_updates = 0  # calls of update_lr(), whoever makes them
        self._updates = {}  # steps of each optimiser, counted by itself, whoever makes them

    def register_model(self, name="model", model=None, optim=None, sched=None):
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if name in self._models:
            raise AssertionError(f"a model {name!r} is registered already")
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched
        if isinstance(optim, torch.optim.Optimizer):
            self._updates[name] = 0
            optim.register_step_post_hook(lambda *_: self._count_step(name))

    def _count_step(self, name):
        self._updates[name] += 1

    @property
    def steps(self):
        """Optimiser steps taken (where a method has several optimisers, of the busiest)."""
        return max(self._updates.values(), default=0)

    def get_model_names(self, names=None):
        known = list(self._models)
        if names is None:
            return known
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if name not in known:
                raise ValueError(f"no model {name!r} is registered; there are {known}")
        return wanted

    # ---- checkpoints

    def extra_state(self):
        """What else a method must keep to resume (tensors, numbers, strings)."""
        return {}

    def load_extra_state(self, state):
        """The counterpart of extra_state()."""

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        """Write directory/<name>/model.pth.tar-<epoch + 1> (or model_name) of every registered model."""
        scaler = getattr(self, "scaler", None)
        common = {
            "epoch": epoch + 1,
            "step": max(self._updates.values(), default=0),
            "val_result": val_result,
            "rolling": self._rolling,
            "method": type(self).__name__,
            "classes": self._classes(),
            "dataset": self._dataset(),
            "best_result": getattr(self, "best_result", None),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "extra": self.extra_state(),
            "train_seconds": float(getattr(self, "train_seconds", 0.0)),
            "seconds_per_step": getattr(self, "seconds_per_step", None),
            "rng": rng_state(),
            **self._within,  # of an epoch that is stopped within: its batch and its order
        }
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": model_state(self._models[name]),
                "optimizer": optim.state_dict() if optim is not None else None,
                "scheduler": sched.state_dict() if sched is not None else None,
                **common,
            }
            save_checkpoint(state, Path(directory) / name, is_best=is_best, model_name=model_name)

    def _classes(self):
        names = getattr(self, "lab2cname", None) or {}
        return [names[label] for label in sorted(names)]

    def _dataset(self):
        cfg = getattr(self, "cfg", None)
        return cfg.DATASET.NAME if cfg is not None else None

    def trained_on(self, classes, dataset):
        """Told by load_model(), before it loads tensors, what they were trained on: class names in label order, and
        the data set; None where a checkpoint does not say."""

    def _check_origin(self, checkpoint, path, same_classes):
        """Refuse a checkpoint of another method, or (if same_classes) of other classes; unmarked ones pass."""
        method = checkpoint.get("method", type(self).__name__)
        if method != type(self).__name__:
            raise UserError(f"{path} is a checkpoint of {method}, not of {type(self).__name__}")
        theirs, mine = checkpoint.get("classes"), self._classes()
        if same_classes and theirs and theirs != mine:
            raise UserError(
                f"{path} was trained on other classes ({_some(theirs)}) than these ({_some(mine)}); "
                f"train on these, or name another --output-dir"
            )

    @classmethod
    def bound_to_classes(cls, cfg):
        """Why what is learned under this configuration serves no other classes; "" if it does."""
        return ""

    def resume_model_if_exist(self, directory):
        """Resume every registered model from its last checkpoint; returns the epoch to start with, 0 for none."""
        names = self.get_model_names()
        folders = [Path(directory) / n for n in names]
        paths = newest(last_common_checkpoint(folders), [folder / INTERRUPTED for folder in folders])
        if not paths:
            return 0
        print(f"Found checkpoints in {directory}: resuming (remove the folder to start afresh)")
        for name, path in zip(names, paths):
            checkpoint = load_checkpoint(path)
            self._check_origin(checkpoint, path, same_classes=True)
            load_model_state(self._models[name], checkpoint["state_dict"], path)
            for part, key in ((self._optims[name], "optimizer"), (self._scheds[name], "scheduler")):
                if part is not None and checkpoint.get(key):
                    part.load_state_dict(checkpoint[key])
        self._resume_common(checkpoint)
        self._resume_within = {k: checkpoint[k] for k in ("batch", "epoch_rng") if k in checkpoint}
        return int(checkpoint["epoch"])

    def _resume_common(self, checkpoint):
        self._rolling = checkpoint.get("rolling")
        self._updates = dict.fromkeys(self._updates, checkpoint.get("step", 0))
        if getattr(self, "scaler", None) is not None and checkpoint.get("scaler"):
            self.scaler.load_state_dict(checkpoint["scaler"])
        for name in ("best_result", "train_seconds", "seconds_per_step"):
            if checkpoint.get(name) is not None:
                setattr(self, name, checkpoint[name])
        self.load_extra_state(checkpoint.get("extra", {}))
        if "rng" in checkpoint:
            set_rng_state(checkpoint["rng"])

    def load_model(self, directory, epoch=None):
        """Load model-best.pth.tar, or model.pth.tar-<epoch>; without a best one and an epoch, the last."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = self._checkpoint_path(Path(directory) / name, epoch)
            checkpoint = load_checkpoint(path)
            self._check_origin(checkpoint, path, same_classes=bool(self.bound_to_classes(self.cfg)))
            value = checkpoint.get("val_result")
            note = f", val {value:.1f}" if value is not None else ""
            self.trained_on(checkpoint.get("classes"), checkpoint.get("dataset"))
            print(f"Loading {name} from {path} (epoch {checkpoint['epoch']}{note})")
            load_model_state(self._models[name], checkpoint["state_dict"], path)

    def epoch_to_load(self, directory, epoch=None):
        """What to call load_model() with, also where a plugin's own knows no last one, only model-best.pth.tar.

        Returns:
            `epoch` if given; None where a best model is kept, or nothing; else the last epoch of all models.
        """
        folders = [Path(directory) / name for name in self.get_model_names()] if directory else []
        if epoch is not None or all((folder / BEST).is_file() for folder in folders):
            return epoch
        paths = last_common_checkpoint(folders)
        return int(paths[0].name.removeprefix(PREFIX)) if paths else None

    def _checkpoint_path(self, folder, epoch):
        if epoch is not None:
            path = folder / f"{PREFIX}{epoch}"
        elif (folder / BEST).is_file():
            path = folder / BEST
        else:
            path = (last_common_checkpoint([folder]) or [folder / f"{PREFIX}<epoch>"])[0]
        if not path.is_file():
            raise MissingFile(f"no checkpoint {path} - train first, or give --model-dir and --load-epoch")
        return path

    # ---- modes and steps

    def set_model_mode(self, mode="train", names=None):
        """train() or eval() of the registered models; frozen parts stay in eval, so no BatchNorm of theirs moves."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(f"mode {mode!r}: train, test or eval")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")
        if mode == "train":
            whole = getattr(self, "model", None)  # plugins register the learned part of it only
            for model in [*self._models.values(), *([whole] if isinstance(whole, nn.Module) else [])]:
                _frozen_to_eval(model)

    def update_lr(self, names=None):
        """One step of the schedules."""
        self._lr_updates += 1
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def detect_anomaly(self, loss):
        if not torch.isfinite(loss).all():
            raise NonFiniteLoss(
                f"Loss is infinite or NaN! (epoch {getattr(self, 'epoch', 0) + 1}, batch "
                f"{getattr(self, 'batch_idx', 0) + 1}); lower OPTIM.LR or use precision fp32"
            )

    def _watch(self, loss):
        """Finiteness: at once on CPU; on CUDA a flag on the device, read at PRINT_FREQ, so a step does not wait."""
        if loss.device.type == "cpu":
            self.detect_anomaly(loss)
        else:
            worst = loss.detach().float().abs().max()
            known = getattr(self, "_worst_loss", None)
            self._worst_loss = worst if known is None else worst + known  # inf and NaN stay

    def read_anomaly(self):
        """Read the flag that _watch keeps on the device."""
        worst, self._worst_loss = getattr(self, "_worst_loss", None), None
        if worst is not None:
            self.detect_anomaly(worst)

    def model_zero_grad(self, names=None):
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        self._watch(loss)
        scaler = getattr(self, "scaler", None)
        (scaler.scale(loss) if scaler is not None else loss).backward()

    def model_update(self, names=None):
        scaler = getattr(self, "scaler", None)
        for optim in [self._optims[n] for n in self.get_model_names(names) if self._optims[n] is not None]:
            if scaler is not None:
                scaler.step(optim)
            else:
                optim.step()
        if scaler is not None:
            scaler.update()

    def model_backward_and_update(self, loss, names=None):
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # ---- TensorBoard, and Weights & Biases where TRAIN.WANDB names a project

    def init_writer(self, log_dir):
        cfg = getattr(self, "cfg", None)
        if self._wandb is None and cfg is not None and cfg.TRAIN.WANDB:
            self._wandb = WandB(cfg)
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                print("no TensorBoard events: tensorboard is not installed")
                return
            self._writer = SummaryWriter(log_dir=str(log_dir))

    def close_writer(self):
        for writer in (self._writer, self._wandb):
            if writer is not None:
                writer.close()
        self._writer = self._wandb = None

    def write_scalar(self, tag, value, step=None):
        for writer in (self._writer, self._wandb):
            if writer is not None:
                writer.add_scalar(tag, float(value), step)

    # ---- the loop

    def train(self, start_epoch, max_epoch):
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        try:
            self.before_train()
            for epoch in range(self.start_epoch, self.max_epoch):
                self.epoch = epoch
                self.before_epoch()
                self.run_epoch()
                self.after_epoch()
            self.after_train()
        finally:
            self.close_writer()

    def before_train(self):
        pass

    def after_train(self):
        pass

    def before_epoch(self):
        pass

    def after_epoch(self):
        pass

    def run_epoch(self):
        raise NotImplementedError

    def test(self):
        raise NotImplementedError

    def parse_batch_train(self, batch):
        raise NotImplementedError

    def parse_batch_test(self, batch):
        raise NotImplementedError

    def forward_backward(self, batch):
        raise NotImplementedError

    def model_inference(self, input):
        raise NotImplementedError


def _frozen_to_eval(module):
    own = list(module.parameters())
    if own and not any(p.requires_grad for p in own):
        module.eval()
        return
    for child in module.children():
        _frozen_to_eval(child)


def _some(names):
    return f"{', '.join(map(str, names[:3]))}{' ...' if len(names) > 3 else ''}"
