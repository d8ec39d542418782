"""SimpleTrainer and TrainerX: upstream's hooks in upstream's order, written fresh.

train(): before_train -> each epoch: before_epoch, run_epoch, after_epoch -> after_train (-> test).
"""

import datetime
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils.errors import ConfigError, MissingFile, unknown_name
from dassl.utils.left_out import left_out
from dassl.utils.meters import AverageMeter, MetricMeter
from dassl.utils.torchtools import BEST

from . import results, whole_val
from .base import TrainerBase
from .checkpoint import INTERRUPTED, PREFIX, model_state, rng_state, set_rng_state
from .interrupt import StopAfterStep

ROLLING_SECONDS = 60  # a long run keeps a checkpoint at most this old (and an epoch), whatever CHECKPOINT_FREQ


_threads_before = None  # a run's THREADS


def set_threads(count):
    """CPU threads of this run; 0: as they were before any run of this process set them."""
    global _threads_before
    if count > 0:
        _threads_before = _threads_before or torch.get_num_threads()
        torch.set_num_threads(count)
    elif _threads_before:
        torch.set_num_threads(_threads_before)


class SimpleTrainer(TrainerBase):
    """Data, model, evaluator, and the default hooks."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        if cfg.OPTIM.BUDGET and (why := self.without_budget()):
            raise ConfigError(f"OPTIM.BUDGET {cfg.OPTIM.BUDGET}: not for {cfg.TRAINER.NAME} - {why}; leave it out")
        self.check_cfg(cfg)
        set_threads(cfg.THREADS)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.max_steps = 0  # the last epoch ends with this step; 0: with its last batch
        self.loaded_steps = None  # of the training whose checkpoint is tested; set by who runs it
        self.output_dir = cfg.OUTPUT_DIR
        self.train_seconds, self.seconds_per_step, self.best_result = 0.0, None, -float("inf")
        self.waiting_share = None  # of the last epoch's time, spent waiting for images
        self.time_start = self._saved_at = time.time()
        self._stop = None  # StopAfterStep of the epoch
        self._resume_within = {}  # batch and generator states of an epoch that was stopped within
        self.run_facts = {}  # what results.json says of the run besides its numbers; set by who runs it
        if cfg.TEST.FINAL_MODEL not in ("last_step", "best_val"):
            raise unknown_name("TEST.FINAL_MODEL", cfg.TEST.FINAL_MODEL, ("last_step", "best_val"))
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

    @classmethod
    def without_budget(cls):
        """Why OPTIM.BUDGET can't give this trainer its steps; "" if it can."""
        return "its schedule is its own, and can't be laid over other steps"

    def input_facts(self):
        """dict(size, mean, std, interpolation; resize_mode) the backbone expects, or None to keep INPUT as it is."""
        return None

    def _with_input_facts(self, cfg):
        """INPUT from the backbone, unless set: a value in INPUT.SET, or one that differs from the default, stays.

        What was set against the backbone is kept in `input_set_by_user`, which goes into results.json.
        """
        facts, self.input_set_by_user = self.input_facts(), []
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
            "RESIZE_MODE": facts.get("resize_mode", default["RESIZE_MODE"]),
        }
        for key, value in wanted.items():
            is_set = key in cfg.INPUT.SET or cfg.INPUT[key] != default[key]
            if not is_set or cfg.INPUT[key] == value:
                cfg.INPUT[key] = value
            else:
                self.input_set_by_user.append(f"INPUT.{key}")
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
        if self.max_epoch < 1:
            raise ConfigError(
                f"OPTIM.MAX_EPOCH {self.max_epoch} trains nothing, and what is untrained is not tested as "
                f"{self.cfg.TRAINER.NAME}; give 1 or more"
            )
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        if self.cfg.RESUME and self._models and not self.start_epoch:
            raise MissingFile(f"RESUME {self.cfg.RESUME} holds no checkpoint of {', '.join(self._models)}")
        if self._models:
            self.init_writer(Path(self.output_dir) / "tensorboard")
        self.time_start = self._saved_at = time.time()
        results.reset_peak_memory(self.device)

    def after_update_epoch(self):
        """After an epoch's last step: averaging over epochs collects here."""

    def after_last_epoch(self):
        """After the last epoch and before its checkpoint: the place to load averaged weights."""

    def _keeps(self, epochs):
        """Whether the checkpoint after so many epochs is asked for, by TRAIN.CHECKPOINT_FREQ or as the last."""
        every = self.cfg.TRAIN.CHECKPOINT_FREQ
        return epochs >= self.max_epoch or (every > 0 and epochs % every == 0)

    def after_epoch(self):
        self.after_update_epoch()
        if self.epoch + 1 == self.max_epoch:
            self.after_last_epoch()
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            value = self.test(split="val")
            if value > self.best_result:
                self.best_result = value
                self.save_model(self.epoch, self.output_dir, val_result=float(value), model_name=BEST)
        if self._keeps(self.epoch + 1):
            self._save_and_drop(None)
        elif time.time() - self._saved_at > ROLLING_SECONDS or self._stopped():
            self._save_and_drop(self.epoch + 1)
        if self._stopped():
            self._stop.stop()

    def _stopped(self):
        """Whether a signal came during the epoch's last step."""
        return self._stop is not None and self._stop.asked is not None

    def _save_and_drop(self, rolling):
        """Save this epoch, then remove the checkpoint before it that only served a restart.

        rolling: number of epochs done if this one only serves a restart, else None.
        """
        before, self._rolling = self._rolling, rolling
        self.save_model(self.epoch, self.output_dir)
        for name in self._models:
            if before not in (None, self.epoch + 1):
                (Path(self.output_dir) / name / f"{PREFIX}{before}").unlink(missing_ok=True)
            (Path(self.output_dir) / name / INTERRUPTED).unlink(missing_ok=True)
        self._saved_at = time.time()

    def after_train(self):
        print("Finish training")
        if self.cfg.TEST.FINAL_MODEL == "best_val" and self._models and not self.cfg.TEST.NO_TEST:
            print("Deploy the model with the best val performance")
            self.load_model(self.output_dir)
        elif not self.cfg.TEST.NO_TEST:
            print("Deploy the last-epoch model")
        self.export_learner()
        if not self.cfg.TEST.NO_TEST:
            self.test()
        print(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def export_learner(self):
        """<name>/learner.safetensors: the learned tensors of the deployed model, for other tools."""
        from safetensors.torch import save_file

        from dassl.utils.io import atomic_path

        for name, model in self._models.items():
            state = model_state(model)
            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items() if torch.is_tensor(v)}
            if tensors:
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
        tested, paths, start = 0, [], time.time()
        for outputs, labels, batch in self.test_outputs(loader):
            self.evaluator.process(outputs, labels)
            tested += len(labels)
            paths += batch.get("impath", ()) if isinstance(batch, dict) else ()  # a plugin's batch may be a tuple
        seconds = time.time() - start
        self.evaluator.groups = whole_val.groups_of(self.dm.dataset, paths)
        values = self.evaluator.evaluate()
        for name, value in values.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        if getattr(self.evaluator, "report", None) and self.output_dir:
            self._save_results(split, paths, tested / max(seconds, 1e-9))
        return next(iter(values.values()))

    def _save_results(self, split, paths, rate):
        cost = {
            "steps": self.steps if self.loaded_steps is None else self.loaded_steps,
            "train_seconds": self.train_seconds,
            "seconds_per_step": self.seconds_per_step,
            "waiting_share": self.waiting_share,
            "peak_memory_mib": results.peak_memory_mib(self.device),
            "test_images_per_second": rate,
        }
        final = split == "test"
        content = results.record(self, split, self.evaluator.report, cost, self.result_facts())
        content["left_out"] = {part: len(found) for part, found in self._left_out(split).items() if found}
        if final and self.cfg.TEST.WHOLE_VAL and self.loaded_steps is None:
            whole_val.keep(self)
        groups = getattr(self.evaluator, "groups", None)
        results.save(self.output_dir, split, final, content, paths, *self.evaluator.predictions(), groups)

    def held_out(self, items):
        """A loader of other images, as test's are loaded."""
        return self.dm.held_out(items)

    def _left_out(self, split):
        """{part: files} that could not be read and were skipped (DATASET.ON_BAD_IMAGE)."""
        loaders = {"train": self.train_loader_x, split: self.val_loader if split == "val" else self.test_loader}
        return {part: sorted(getattr(loader, "skipped", ())) for part, loader in loaders.items()}

    def test_outputs(self, loader):
        """(outputs, labels, batch) of each batch; a method that answers for all images at once overrides this."""
        for batch in loader:
            images, labels = self.parse_batch_test(batch)
            yield self.model_inference(images), labels, batch

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

    lr_per: after what the learning rate is stepped here, "epoch" or "step"; where forward_backward has called
    update_lr() itself by then, not again. "": never here, as upstream's plugins expect it.
    """

    lr_per = ""

    def run_epoch(self):
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self.num_batches = len(self.train_loader_x)
        if self.max_steps:
            self.num_batches = min(self.num_batches, self.max_steps - self.epoch * self.num_batches)
        if hasattr(self.train_loader_x, "set_epoch"):
            self.train_loader_x.set_epoch(self.epoch)
        steps, updates_before = [], self._lr_updates
        end = epoch_start = time.time()
        with StopAfterStep() as self._stop:
            for batch_idx, batch in self._batches():
                self.batch_idx = batch_idx
                data_time.update(time.time() - end)
                losses.update(self._step(batch))
                batch_time.update(time.time() - end)
                steps.append(time.time() - end)
                self._report(losses, batch_time, data_time)
                end = time.time()
                if self._stop.asked and self.batch_idx + 1 < self.num_batches:
                    self.train_seconds += end - epoch_start
                    self._save_within()
                    self._stop.stop()
        self.read_anomaly()  # waits for the device, so the times below are of work done
        self._step_lr("epoch", updates_before)
        seconds = time.time() - epoch_start
        self.train_seconds += seconds
        on_cpu = self.device.type == "cpu"
        if steps:
            self.waiting_share = data_time.sum / max(seconds, 1e-9)
            self.seconds_per_step = statistics.median(steps) if on_cpu else seconds / len(steps)

    def _step(self, batch):
        updates_before = self._lr_updates
        summary = self.one_step(batch)
        self._step_lr("step", updates_before)
        return summary

    def one_step(self, batch):
        """forward_backward(batch), and what surrounds it whatever the method."""
        return self.forward_backward(batch)

    def _step_lr(self, moment, updates_before):
        """The schedule's step at the end of an "epoch" or "step", unless the method made one in it."""
        if self.lr_per == moment and self._lr_updates == updates_before:
            self.update_lr()

    def _batches(self):
        """(index, batch) of this epoch; a run that was stopped within it goes on behind its last step, with the same
        images in the same order."""
        within, self._resume_within = self._resume_within, {}
        done, now = within.get("batch", 0), rng_state() if within else None
        if within:
            set_rng_state(within["epoch_rng"])  # what the epoch began with gives its order again
        self._epoch_rng = rng_state()
        batches = iter(self.train_loader_x)
        for index in range(self.num_batches):
            batch = next(batches, None)
            if batch is None:
                return
            if index < done:
                continue
            if now is not None:
                set_rng_state(now)
                now = None
            yield index, batch

    def _save_within(self):
        """A checkpoint in the middle of an epoch, from which a run goes on to the same end."""
        self.read_anomaly()
        self._within = {"batch": self.batch_idx + 1, "epoch_rng": self._epoch_rng}
        self.save_model(self.epoch - 1, self.output_dir, model_name=INTERRUPTED)
        self._within = {}

    def _report(self, losses, batch_time, data_time):
        """A line every PRINT_FREQ batches (every batch of shorter epochs); the only place where values are read."""
        every = max(self.cfg.TRAIN.PRINT_FREQ, 1)
        done = self.batch_idx + 1
        if done % every and self.num_batches >= every:
            return
        self.read_anomaly()
        left = self.num_batches - done + (self.max_epoch - self.epoch - 1) * self.num_batches
        eta = datetime.timedelta(seconds=int(batch_time.avg * left))
        lr = self.get_current_lr() if self._optims else 0.0
        print(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{done}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{losses} lr {lr:.4e} eta {eta}"
        )
        step = self.epoch * len(self.train_loader_x) + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", lr, step)

    def parse_batch_train(self, batch):
        return (*self.parse_batch_test(batch), batch["domain"].to(self.device))


def __getattr__(name, module=__name__):
    if name in ("TrainerXU", "SimpleNet"):
        raise left_out(f"{module}.{name}")
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
