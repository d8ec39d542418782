"""One run in this process: its folder claimed, its log in it, its results written once and last."""

import contextlib
import io
import os
import sys
import time
from pathlib import Path

from dassl.utils.errors import ConfigError, UserError, unwritable
from dassl.utils.io import sha256_file

from .collect import read, results_file
from .kept import keep


class Ticker(io.TextIOBase):
    """The console of a quiet run: warnings and resuming at once, an epoch's line now and then; the log has all."""

    seconds = 30  # between epoch lines

    def __init__(self, console):
        self.console, self.rest, self.last = console, "", time.time()

    def write(self, text):
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(self.wanted, lines):
            print(f"    {line}", file=self.console, flush=True)
        return len(text)

    def wanted(self, line):
        if line.startswith("epoch [") and time.time() - self.last > self.seconds:
            self.last = time.time()
            return True
        return line.startswith(("warning:", "Found checkpoints"))


class Busy(UserError):
    """Another process is at work in this run's folder."""


@contextlib.contextmanager
def claimed(folder):
    """Hold the run folder; a holder that dies loses it (a lock of the operating system; untested on network drives).

    Raises:
        Busy: another process holds it.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"another process is at work in {folder}; wait for it, or name another --output-dir") from None
    except OSError as error:
        raise unwritable(error, folder) or UserError(f"{folder}: can't be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


def run(spec, folder, what="", model_dir="", epoch=None, quiet=False):
    """Build the trainer of a resolved RunSpec, train or load, evaluate; what is printed goes to folder/log.txt too.

    The caller holds the folder (`claimed`).

    Args:
        what: "train" (and test), "test" (load model_dir, test), "nothing" (build only); "" by the spec's source.
        quiet: print to the log, and little to the console (a driver of many runs shows a line each).
    """
    from dassl.engine import TRAINER_REGISTRY

    what = what or ("test" if spec.source else "train")
    facts, steps = {"spec": spec.record(), "key": spec.key, "group": spec.first.key, "reads": spec.reads}, None
    if what == "test" and model_dir:
        facts |= facts_of_source(spec, model_dir)
        steps = facts.pop("steps", "unknown")
    how = {"folder": os.path.abspath(folder), "what": what, "epoch": epoch, "quiet": quiet, "steps": steps,
           "model_dir": os.path.abspath(model_dir) if model_dir else "", "plugins": spec.plugins}  # fmt: skip
    checkout = getattr(TRAINER_REGISTRY.get(spec.method), "checkout", None)
    return checkout.run(spec, facts, **how) if checkout else run_here(spec.config, facts, **how)


def run_here(cfg, facts, folder, what, model_dir, epoch, quiet, steps=None, plugins=()):
    """run() of a configuration in this process; `facts` go into its results, and `steps` of what is loaded."""
    from dassl.engine import build_trainer, claim_run_folder
    from dassl.utils import collect_env_info, set_random_seed, setup_logger

    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(folder)
    cfg.freeze()
    claim_run_folder(cfg, facts["reads"])
    console = contextlib.redirect_stdout(Ticker(sys.stdout)) if quiet else contextlib.nullcontext()
    with console:
        logger = setup_logger(cfg.OUTPUT_DIR)
        try:
            if cfg.SEED >= 0:
                print(f"Setting fixed seed: {cfg.SEED}")
                set_random_seed(cfg.SEED)
            with logger.file_only():
                print(f"** Config **\n{cfg}\n** Environment **\n{collect_env_info()}\n")
            trainer = build_trainer(cfg)
            trainer.run_facts, trainer.loaded_steps = facts, steps
            keep(trainer, folder, plugins, model_dir, epoch)
            trains = getattr(trainer, "trains", has_a_step(trainer))
            if what == "test" and trains and not model_dir:
                raise ConfigError(
                    f"{cfg.TRAINER.NAME} has nothing to test: its prompts are untrained; give --model-dir, the folder "
                    f"of the run that trained them"
                )
            if what == "train" and trains:
                trainer.train()
            elif what != "nothing":
                trainer.load_model(model_dir, epoch=trainer.epoch_to_load(model_dir, epoch))
                trainer.test()
        except UserError as error:
            with logger.file_only():
                print(f"error: {error}")
            raise
        finally:
            sys.stdout.flush()
            logger.close()
    return trainer


def has_a_step(trainer):
    """Whether somebody else's trainer says how to train; their zero-shot ones do not."""
    from dassl.engine import TrainerX

    ways = ("forward_backward", "run_epoch", "train")
    return any(getattr(type(trainer), way, None) is not getattr(TrainerX, way) for way in ways)


def facts_of_source(spec, model_dir):
    """Facts of a test of what another run trained: the hash of its results, so that a training done anew is noticed,
    and its steps; where it was on another data set, that set, its shots and its train hash, as nobody saw the target's
    images."""
    split = spec.source.split if spec.source else "test"
    there = results_file(model_dir, split)
    if not there.is_file():
        return {}
    source = read(there, {"cost": dict, "dataset": str})
    found = {"source_sha256": sha256_file(there), "steps": source["cost"].get("steps", "unknown")}
    if source["dataset"] != spec.dataset:
        source = read(there, {"shots": int, "train_sha256": str, "dataset": str})
        found |= {"source_dataset": source["dataset"], "shots": source["shots"], "train_sha256": source["train_sha256"]}
    return found
