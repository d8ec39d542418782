"""One run in this process, with its log in the run folder."""

import contextlib
import io
import sys
import time
from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import read_json, sha256_of, write_json


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


def run(cfg, what="train", model_dir="", epoch=None, quiet=False):
    """Build the trainer of `cfg`, train or load, evaluate; everything printed goes to OUTPUT_DIR/log.txt as well.

    Args:
        what: "train" (and test), "test" (load model_dir, test), "nothing" (build only).
        quiet: print to the log, and little to the console (a driver of many runs shows a line each).
    """
    from dassl.engine import build_trainer, claim_run_folder
    from dassl.utils import collect_env_info, set_random_seed, setup_logger

    claim_run_folder(cfg)
    console = contextlib.redirect_stdout(Ticker(sys.stdout)) if quiet else contextlib.nullcontext()
    with console:
        logger = setup_logger(cfg.OUTPUT_DIR)
        try:
            if cfg.SEED >= 0:
                print(f"Setting fixed seed: {cfg.SEED}")
                set_random_seed(cfg.SEED)
            print(f"** Config **\n{cfg}\n** Environment **\n{collect_env_info()}\n")
            trainer = build_trainer(cfg)
            if what == "train" and getattr(trainer, "trains", True):
                trainer.train()
            elif what != "nothing":
                trainer.load_model(model_dir, epoch=epoch)
                trainer.test()
                name_source(cfg.OUTPUT_DIR, model_dir)
        except UserError as error:
            print(f"error: {error}")
            raise
        finally:
            sys.stdout.flush()
            logger.close()
    return trainer


def name_source(folder, model_dir):
    """Where a checkpoint was trained on another data set, the results say so: its train hash replaces the target's,
    whose training images nobody saw, and split_sha256 is of the two (train there, test here)."""
    here, there = Path(folder) / "results.json", Path(model_dir or folder) / "results.json"
    if not (here.is_file() and there.is_file()):
        return
    content, source = read_json(here), read_json(there)
    if content["dataset"] == source["dataset"]:
        return
    content |= {"source_dataset": source["dataset"], "shots": source["shots"], "train_sha256": source["train_sha256"]}
    content["split_sha256"] = sha256_of([content["train_sha256"], content["test_sha256"]])
    write_json(content, here)
