#!/usr/bin/env python
"""One image pass for many runs: what kept features save, on random weights at ViT-B/16 size.

    python -m cilmp.benchmarks.image_pass [--suite methods|grid] [--composed] [--json FILE]

8 classes, 16 shots, 5 epochs, batches of 32, 200 test images of noise, one augmentation for all. Suite methods: the
eight methods that leave the image tower alone and follow gradients; suite grid: CoOp at eight learning rates. Every run
is made with kept features, from an empty cache at first, and without (TRAIN.CACHE_FEATURES False); seconds are of the
whole run: backbone, training, test.

--composed, where others use the machine: the processor's seconds on one thread instead of the clock's; image passes are
counted, not made, at the seconds an image that a pass over 32 images took, and what else a run does is timed once.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import torch
from tabulate import tabulate

from cilmp.benchmarks.cases import names
from cilmp.benchmarks.harness import make_believe
from cilmp.experiments.settings import base_config
from cilmp.trainers.features import FeatureItems
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from dassl.utils.errors import run_main
from dassl.utils.io import write_json

METHODS = ("BiomedCoOp", "CLIPAdapter", "CoCoOp", "CoOp", "KgCoOp", "ProGrad", "TaskRes", "TipAdapterF")
RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
SUITES = {"methods": [(m, {}) for m in METHODS], "grid": [("CoOp", {"OPTIM.LR": rate}) for rate in RATES]}
TRIED = 32  # images whose pass is timed


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--suite", choices=SUITES)
    p.add_argument("--composed", action="store_true")
    p.add_argument("--json", metavar="FILE")
    return p


class Passes:
    """Counts the images that go through the tower, and those that would without kept features.

    composed: they do not go through it; `each` is the seconds an image takes.
    """

    def __init__(self, composed):
        self.composed, self.each = composed, None
        self.clock = time.process_time if composed else time.perf_counter
        find, compute, count = FeatureItems._found, FeatureItems.compute, self

        def found(items, epoch):
            count.asked += len(items)
            return find(items, epoch)

        def counted(items, epoch):
            count.made += len(items)
            return count._made_up(items, compute) if composed else compute(items, epoch)

        FeatureItems._found, FeatureItems.compute = found, counted

    def _made_up(self, items, compute):
        """Features of nothing; the first time a real pass over some images is timed, the second of two."""
        if self.each is None:
            few, begin = FeatureItems(items.trainer, items.images), self.clock()
            few.items = few.items[:TRIED]
            for _ in range(2):
                start = self.clock()
                compute(few, 0)
            self.each, self.tried = (self.clock() - start) / TRIED, self.clock() - begin
        return torch.randn(len(items), items.trainer.clip.embed_dim)

    def timed(self, cfg):
        """(seconds, images through the tower, images asked for) of a whole run."""
        self.asked, self.made, self.tried, start = 0, 0, 0.0, self.clock()
        set_random_seed(cfg.SEED)
        with contextlib.redirect_stdout(io.StringIO()):
            build_trainer(cfg).train()
        return self.clock() - start - self.tried, self.made, self.asked

    def row(self, kept, plain):
        """Figures of a run from its configuration with kept features and without."""
        seconds, made, asked = self.timed(kept)
        if self.composed:
            both = seconds + made * self.each, seconds + asked * self.each
        else:
            both = seconds, self.timed(plain)[0]
        return {"images_kept": made, "images_plain": asked, "seconds_kept": both[0], "seconds_plain": both[1]}


def config(method, place, folder, options, kept):
    cfg = base_config()
    values = place | {
        "TRAINER.NAME": method, "MODEL.BACKBONE.NAME": "ViT-B/16", "MODEL.BACKBONE.WEIGHTS": "random", "SEED": 1,
        "INPUT.TRANSFORMS": ["random_resized_crop", "random_flip", "normalize"], "DATALOADER.NUM_WORKERS": 0,
        "DATASET.NUM_SHOTS": 16, "DATALOADER.TRAIN_X.BATCH_SIZE": 32, "DATALOADER.TEST.BATCH_SIZE": 100,
        "OPTIM.NAME": "sgd", "OPTIM.LR": 0.002, "OPTIM.MAX_EPOCH": 5, "OPTIM.LR_SCHEDULER": "cosine",
        "VERBOSE": False, "OUTPUT_DIR": str(folder), "TRAIN.CACHE_FEATURES": kept, "USE_CUDA": False,
    } | options  # fmt: skip
    if "SENTENCES" in cfg.TRAINER[method.upper()]:
        values[f"TRAINER.{method.upper()}.SENTENCES"] = f"{place['DATASET.ROOT']}/sentences.json"
    cfg.merge_from_list([x for pair in values.items() for x in pair])
    return cfg


def measure(suite, passes):
    """[row] of a suite, printed as they come."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        place = make_believe(folder, names(8), 1, 1, images=16, tests=25)
        os.environ["CILMP_CACHE"] = str(folder / "cache")
        for number, (method, options) in enumerate(SUITES[suite]):
            configs = [config(method, place, folder / f"{number}{kept}", options, kept) for kept in (True, False)]
            row = {"suite": suite, "run": " ".join([method, *map(str, options.values())]), **passes.row(*configs)}
            rows.append(row)
            print(row, flush=True)
    total = {k: sum(r[k] for r in rows) for k in rows[0] if k not in ("suite", "run")}
    return [*rows, {"suite": suite, "run": "together", **total}]


def main(argv=None):
    args = parser().parse_args(argv)
    if args.composed:
        torch.set_num_threads(1)
    passes, rows = Passes(args.composed), []
    for suite in [args.suite] if args.suite else SUITES:
        rows += measure(suite, passes)
    table = [[r["suite"], r["run"], r["images_plain"], r["images_kept"], f"{r['seconds_plain']:.1f}",
              f"{r['seconds_kept']:.1f}", f"{r['seconds_plain'] / r['seconds_kept']:.1f}x"] for r in rows]  # fmt: skip
    headers = ["suite", "run", "images", "kept", "s", "s kept", "faster"]
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{f'{passes.each:.3f} s an image, composed' if args.composed else 'measured as a whole'}")  # fmt: skip
    print(tabulate(table, headers, disable_numparse=True))
    if args.json:
        write_json({"composed": args.composed, "seconds_an_image": passes.each, "rows": rows}, args.json)
    return 0


if __name__ == "__main__":
    run_main(main)
