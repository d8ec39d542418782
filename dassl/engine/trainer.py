"""TrainerBase, SimpleTrainer, TrainerX: upstream's hooks in upstream's order, written fresh.

train(): before_train -> each epoch: before_epoch, run_epoch, after_epoch -> after_train (-> test).
"""

import datetime
import statistics
import time
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils.errors import ConfigError, MissingFile, UserError
from dassl.utils.meters import AverageMeter, MetricMeter
from dassl.utils.torchtools import load_checkpoint, save_checkpoint

from . import results
from .checkpoint import load_model_state, model_state, rng_state, set_rng_state

ROLLING_SECONDS = 60  # a long run keeps a checkpoint at most this old (and an epoch), whatever CHECKPOINT_FREQ


class TrainerBase:
    """Holds models, optimisers and schedules by name; saves, resumes and steps them."""

    def __init__(self):
        self._models, self._optims, self._scheds = OrderedDict(), OrderedDict(), OrderedDict()
        self._writer = None

    def register_model(self, name="model", model=None, optim=None, sched=None):
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if name in self._models:
            raise AssertionError(f"a model {name!r} is registered already")
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

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
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            scaler = getattr(self, "scaler", None)
            state = {
                "state_dict": model_state(self._models[name]),
                "epoch": epoch + 1,
                "optimizer": optim.state_dict() if optim is not None else None,
                "scheduler": sched.state_dict() if sched is not None else None,
                "val_result": val_result,
                "method": type(self).__name__,
                "classes": list(getattr(self, "lab2cname", {}).values()),
                "best_result": getattr(self, "best_result", None),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "extra": self.extra_state(),
                "train_seconds": float(getattr(self, "train_seconds", 0.0)),
                "rng": rng_state(),
            }
            save_checkpoint(state, Path(directory) / name, is_best=is_best, model_name=model_name)

    def _check_origin(self, checkpoint, path):
        method = checkpoint.get("method", type(self).__name__)
        if method != type(self).__name__:
            raise UserError(f"{path} is a checkpoint of {method}, not of {type(self).__name__}")

    def resume_model_if_exist(self, directory):
        """Resume every registered model from its last checkpoint; returns the epoch to start with, 0 for none."""
        names = self.get_model_names()
        last = {n: last_checkpoint(Path(directory) / n) for n in names}
        if not names or any(path is None for path in last.values()):
            return 0
        print(f"Found checkpoints in {directory}: resuming (remove the folder to start afresh)")
        for name, path in last.items():
            checkpoint = load_checkpoint(path)
            self._check_origin(checkpoint, path)
            load_model_state(self._models[name], checkpoint["state_dict"])
            if self._optims[name] is not None and checkpoint.get("optimizer"):
                self._optims[name].load_state_dict(checkpoint["optimizer"])
            if self._scheds[name] is not None and checkpoint.get("scheduler"):
                self._scheds[name].load_state_dict(checkpoint["scheduler"])
        if getattr(self, "scaler", None) is not None and checkpoint.get("scaler"):
            self.scaler.load_state_dict(checkpoint["scaler"])
        if checkpoint.get("best_result") is not None:
            self.best_result = checkpoint["best_result"]
        self.train_seconds = checkpoint.get("train_seconds", 0.0)
        self.load_extra_state(checkpoint.get("extra", {}))
        if "rng" in checkpoint:
            set_rng_state(checkpoint["rng"])
        return int(checkpoint["epoch"])

    def load_model(self, directory, epoch=None):
        """Load model-best.pth.tar, or model.pth.tar-<epoch>; without a best one and an epoch, the last."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            folder = Path(directory) / name
            best = folder / "model-best.pth.tar"
            if epoch is not None:
                path = folder / f"model.pth.tar-{epoch}"
            else:
                path = best if best.is_file() else last_checkpoint(folder)
            if path is None or not path.is_file():
                raise MissingFile(f"no checkpoint {path or best} - train first, or give --model-dir and --load-epoch")
            checkpoint = load_checkpoint(path)
            self._check_origin(checkpoint, path)
            value = checkpoint.get("val_result")
            note = f", val {value:.1f}" if value else ""
            print(f"Loading {name} from {path} (epoch {checkpoint['epoch']}{note})")
            load_model_state(self._models[name], checkpoint["state_dict"], strict=False)

    # ---- modes and steps

    def set_model_mode(self, mode="train", names=None):
        if mode not in ("train", "test", "eval"):
            raise KeyError(f"mode {mode!r}: train, test or eval")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names=None):
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def detect_anomaly(self, loss):
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def model_zero_grad(self, names=None):
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        self._watch(loss)
        scaler = getattr(self, "scaler", None)
        (scaler.scale(loss) if scaler is not None else loss).backward()

    def _watch(self, loss):
        """Finiteness: at once on CPU; on CUDA a flag on the device, read at PRINT_FREQ, so a step does not wait."""
        if loss.device.type == "cpu":
            self.detect_anomaly(loss)
        else:
            bad = ~torch.isfinite(loss.detach()).all()
            self._anomaly = bad if getattr(self, "_anomaly", None) is None else self._anomaly | bad

    def model_update(self, names=None):
        scaler = getattr(self, "scaler", None)
        for name in self.get_model_names(names):
            if self._optims[name] is None:
                continue
            if scaler is not None:
                scaler.step(self._optims[name])
            else:
                self._optims[name].step()
        if scaler is not None:
            scaler.update()

    def model_backward_and_update(self, loss, names=None):
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # ---- TensorBoard

    def init_writer(self, log_dir):
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=str(log_dir))

    def close_writer(self):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag, value, step=None):
        if self._writer is not None:
            self._writer.add_scalar(tag, float(value), step)

    # ---- the loop

    def train(self, start_epoch, max_epoch):
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

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


def last_checkpoint(folder):
    """The highest readable model.pth.tar-<epoch> of a folder, or None; a broken newest one is passed over."""
    found = {int(p.name.rsplit("-", 1)[1]): p for p in Path(folder).glob("model.pth.tar-*") if p.name[14:].isdigit()}
    for epoch in sorted(found, reverse=True):
        try:
            load_checkpoint(found[epoch])
            return found[epoch]
        except UserError as error:
            print(f"passing over a checkpoint: {error}")
    return None


class SimpleTrainer(TrainerBase):
    """Data, model, evaluator, and the default hooks."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.check_cfg(cfg)
        if cfg.THREADS > 0:
            torch.set_num_threads(cfg.THREADS)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.train_seconds, self.best_result, self._steps = 0.0, -float("inf"), []
        self.cfg = self._with_input_facts(cfg)
        self.build_data_loader()
        if cfg.TEST.FINAL_MODEL == "best_val" and self.val_loader is None and not cfg.TEST.NO_TEST:
            raise ConfigError(
                f"TEST.FINAL_MODEL best_val needs a validation part, {cfg.DATASET.NAME} has none here; use last_step, "
                f"or prepare the data set with a val part (test is never used for selection)"
            )
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def check_cfg(self, cfg):
        pass

    def input_facts(self):
        """dict(size, mean, std, interpolation) the backbone expects, or None to keep INPUT as it is."""
        return None

    def _with_input_facts(self, cfg):
        """INPUT from the backbone, unless set: a value that differs from the default is the user's and stays."""
        facts = self.input_facts()
        if facts is None:
            return cfg
        from dassl.config import get_cfg_default

        default, cfg = get_cfg_default().INPUT, cfg.clone()
        cfg.defrost()
        wanted = {
            "SIZE": tuple([facts["size"]] * 2 if isinstance(facts["size"], int) else facts["size"]),
            "PIXEL_MEAN": list(facts["mean"]),
            "PIXEL_STD": list(facts["std"]),
            "INTERPOLATION": facts["interpolation"],
        }
        for key, value in wanted.items():
            if cfg.INPUT[key] == default[key] or cfg.INPUT[key] == value:
                cfg.INPUT[key] = value
            else:
                print(f"warning: INPUT.{key} {cfg.INPUT[key]} is set, the backbone was trained with {value}")
        cfg.freeze()
        return cfg

    def build_data_loader(self):
        self.dm = dm = DataManager(self.cfg)
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.num_source_domains = dm.num_classes, dm.num_source_domains
        self.lab2cname = dm.lab2cname

    def build_model(self):
        """Must set self.model, self.optim, self.sched and register them."""
        raise NotImplementedError

    def train(self):
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        if self._models:
            self.init_writer(Path(self.output_dir) / "tensorboard")
        self.time_start = self._saved_at = time.time()
        self._rolling = None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def after_update_epoch(self):
        """After an epoch's last step: averaging over epochs collects here."""

    def after_last_epoch(self):
        """After the last epoch and before its checkpoint: the place to load averaged weights."""

    def after_epoch(self):
        last = self.epoch + 1 == self.max_epoch
        self.after_update_epoch()
        if last:
            self.after_last_epoch()
        every = self.cfg.TRAIN.CHECKPOINT_FREQ
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            value = self.test(split="val")
            if value > self.best_result:
                self.best_result = value
                self.save_model(
                    self.epoch, self.output_dir, val_result=float(value), model_name="model-best.pth.tar"
                )
        if last or (every > 0 and (self.epoch + 1) % every == 0):
            self.save_model(self.epoch, self.output_dir)
            self._drop_rolling()
        elif time.time() - self._saved_at > ROLLING_SECONDS:
            self._drop_rolling()
            self.save_model(self.epoch, self.output_dir)
            self._rolling = self.epoch + 1
        else:
            return
        self._saved_at = time.time()

    def _drop_rolling(self):
        """Remove the checkpoint that only served a restart."""
        for name in self._models:
            if self._rolling is not None:
                (Path(self.output_dir) / name / f"model.pth.tar-{self._rolling}").unlink(missing_ok=True)
        self._rolling = None

    def after_train(self):
        print("Finish training")
        self.export_learner()
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val" and self._models:
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def export_learner(self):
        """learner.safetensors: the learned tensors, for other tools."""
        from safetensors.torch import save_file

        from dassl.utils.io import atomic_path

        for name, model in self._models.items():
            if not hasattr(model, "checkpoint_state"):
                continue
            tensors = {k: v.detach().cpu().contiguous() for k, v in model_state(model).items() if torch.is_tensor(v)}
            with atomic_path(Path(self.output_dir) / name / "learner.safetensors") as temporary:
                save_file(tensors, str(temporary), metadata={"method": type(self).__name__})

    def result_facts(self):
        """Facts merged into results.json: backbone, llm, trainable_parameters ..."""
        models = self._models.values()
        return {
            "trainable_parameters": sum(p.numel() for m in models for p in m.parameters() if p.requires_grad)
        }

    @torch.no_grad()
    def test(self, split=None):
        """Evaluate on TEST.SPLIT (or `split`); returns accuracy. A missing val is an error, never test instead."""
        split = split or self.cfg.TEST.SPLIT
        loader = {"val": self.val_loader, "test": self.test_loader}.get(split)
        if loader is None:
            raise ConfigError(
                f"{self.cfg.DATASET.NAME} has no {split!r} part to evaluate on here (test never stands in for it)"
            )
        self.set_model_mode("eval")
        if isinstance(getattr(self, "model", None), nn.Module):
            self.model.eval()
        self.evaluator.reset()
        print(f"Evaluate on the *{split}* set")
        paths, start = [], time.time()
        for batch in loader:
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
            paths += list(batch["impath"])
        seconds = time.time() - start
        groups = getattr(self.dm.dataset, "groups", None)
        if groups:
            self.evaluator.groups = [groups.get(p, p) for p in paths]
        values = self.evaluator.evaluate()
        for name, value in values.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        if getattr(self.evaluator, "report", None) and self.output_dir:
            self._save_results(split, paths, len(paths) / max(seconds, 1e-9))
        return next(iter(values.values()))

    def _save_results(self, split, paths, rate):
        cost = {
            "train_seconds": self.train_seconds,
            "seconds_per_step": statistics.median(self._steps) if self._steps else None,
            "peak_memory_mib": results.peak_memory_mib(self.device),
            "test_images_per_second": rate,
        }
        final = split == "test"
        content = results.record(self, split, self.evaluator.report, cost, self.result_facts())
        results.save(self.output_dir, split, final, content, paths, *self.evaluator.predictions())

    def model_inference(self, input):
        return self.model(input)

    def parse_batch_test(self, batch):
        return (
            batch["img"].to(self.device, non_blocking=True),
            batch["label"].to(self.device, non_blocking=True),
        )

    def get_current_lr(self, names=None):
        name = self.get_model_names(names)[0]
        return self._optims[name].param_groups[0]["lr"]


class TrainerX(SimpleTrainer):
    """Training on labelled batches.

    steps_lr_itself: True (upstream's plugins): forward_backward calls update_lr() at an epoch's end. False: it is
    stepped here, once an epoch.
    """

    steps_lr_itself = True

    def run_epoch(self):
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self.num_batches = len(self.train_loader_x)
        if hasattr(self.train_loader_x, "set_epoch"):
            self.train_loader_x.set_epoch(self.epoch)
        end = epoch_start = time.time()
        for batch_idx, batch in enumerate(self.train_loader_x):
            self.batch_idx = batch_idx
            data_time.update(time.time() - end)
            losses.update(self.forward_backward(batch))
            batch_time.update(time.time() - end)
            self._steps.append(time.time() - end)
            self._report(losses, batch_time, data_time)
            end = time.time()
        if not self.steps_lr_itself:
            self.update_lr()
        self.train_seconds += time.time() - epoch_start

    def _report(self, losses, batch_time, data_time):
        """A line every PRINT_FREQ batches (every batch of shorter epochs); the only place where values are read."""
        every = self.cfg.TRAIN.PRINT_FREQ
        done = self.batch_idx + 1
        if done % every and self.num_batches >= every:
            return
        if getattr(self, "_anomaly", None) is not None and bool(self._anomaly):
            raise FloatingPointError("Loss is infinite or NaN!")
        left = self.num_batches - done + (self.max_epoch - self.epoch - 1) * self.num_batches
        eta = datetime.timedelta(seconds=int(batch_time.avg * left))
        lr = self.get_current_lr() if self._optims else 0.0
        print(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{done}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{losses} lr {lr:.4e} eta {eta}"
        )
        step = self.epoch * self.num_batches + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", lr, step)

    def parse_batch_train(self, batch):
        return (*self.parse_batch_test(batch), batch["domain"].to(self.device))
