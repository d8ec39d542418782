#!/usr/bin/env python
"""What the owner of a GPU runs first: does everything work on it, how fast, in how much memory; one file to send back.

    bash scripts/gpu_check.sh [--small] [--parts PART ...] [--out FILE]

    steps      three training steps of every method in every precision, ViT-B/16 with random weights, B = 4
    memory     CILMP at B = 64 in every precision
    agreement  CILMP's logits and gradients against the CPU's in float32
    speed      the table of `cilmp.benchmarks.run` on this GPU
    training   five epochs of the paper's setting on the phantom, then its test

Without CUDA everything runs on the CPU, reduced (as with --small), and the file says so. A part that fails is written
down with its error and the others go on. Nothing is downloaded.
"""

import argparse
import json
import math
import os
import platform
import tempfile
import time
import traceback

import torch

from cilmp import trainers
from cilmp.benchmarks import run
from cilmp.benchmarks.cases import CASES, CILMPStep, D, L, names, towers
from cilmp.benchmarks.harness import HarnessStep
from cilmp.experiments.settings import base_config, method_files
from cilmp.trainers.precision import AUTOCAST, in_towers, runs_as
from dassl.engine import build_trainer
from dassl.engine.results import peak_memory_mib, reset_peak_memory
from dassl.utils import set_random_seed
from dassl.utils.errors import ConfigError, run_main
from dassl.utils.io import write_json

WORDS = tuple(AUTOCAST)
PARTS = ("machine", "steps", "memory", "agreement", "speed", "training")


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--small", action="store_true", help="every part in a reduced size (always so without CUDA)")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="only these, in this order")
    p.add_argument("--out", metavar="FILE", default="gpu_check.json")
    return p


class Check:
    """The parts, on one device; each returns what is written under its name."""

    def __init__(self, device, small):
        self.device, self.small = torch.device(device), small

    def machine(self):
        found = {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform(),
                 "device": self.device.type, "reduced": self.small, "cpu_threads": torch.get_num_threads()}  # fmt: skip
        if self.device.type != "cuda":
            return found
        card = torch.cuda.get_device_properties(0)
        return found | {
            "gpu": card.name, "memory_gib": card.total_memory / 2**30, "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "bf16": torch.cuda.is_bf16_supported(), "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "tf32_convolution": torch.backends.cudnn.allow_tf32,
        }  # fmt: skip

    def steps(self):
        methods = ("CILMP", "CoOp") if self.small else sorted(trainers.methods())
        batch, classes = (2, 2) if self.small else (4, 8)
        return {f"{m}/{word}": self._steps(m, word, batch, classes) for m in methods for word in WORDS}

    def memory(self):
        batch = 4 if self.small else 64
        return {f"CILMP/{word}/b{batch}c8": self._steps("CILMP", word, batch, 8) for word in WORDS}

    def _steps(self, method, word, batch, classes):
        """Losses of three steps, seconds of the last and MiB of the peak; a method without steps: its fit."""
        set_random_seed(1)  # the same make-believe rows in every precision
        try:
            step = HarnessStep(method, batch, classes, names, L, D, self.device.type, precision=word)
        except ConfigError as error:  # FineTune refuses fp16
            return {"refused": str(error)}
        reset_peak_memory(self.device)
        losses = []
        for _ in range(3 if step.steps else 1):
            start = time.perf_counter()
            out = step.fast()
            losses += [float(out["loss"])] if isinstance(out, dict) else []  # reading it waits for the device
            self._wait()
            seconds = time.perf_counter() - start
        return {"ran": step.trainer.precision, "losses": losses, "finite": all(map(math.isfinite, losses)),
                "seconds": seconds, "peak_mib": peak_memory_mib(self.device)}  # fmt: skip

    def agreement(self):
        """Per precision: largest difference of logits, decisions that differ, relative difference of all gradients."""
        batch, classes = (2, 2) if self.small else (16, 8)
        sizes = {"part": "step", "train": True, "B": batch, "C": classes}
        reference = CILMPStep(device="cpu", **sizes)
        wanted, slopes = self._answers(reference.learner, reference.images)
        found = {}
        for word in WORDS:
            towers.cache_clear()
            step = CILMPStep(device=self.device.type, **sizes)
            ran = runs_as(word, self.device)
            if ran == "fp16":
                step.clip.half()
            in_towers(step.clip, ran)
            logits, gradients = self._answers(step.learner, reference.images.to(self.device))
            off = torch.stack([(a - b).norm() for a, b in zip(gradients, slopes)]).norm()
            found[word] = {
                "ran": ran, "logits": (logits - wanted).abs().max().item(),
                "decisions": int((logits.argmax(-1) != wanted.argmax(-1)).sum()), "images": batch,
                "gradients": (off / torch.stack([g.norm() for g in slopes]).norm()).item(),
            }  # fmt: skip
        return found

    @staticmethod
    def _answers(learner, images):
        """(logits (B, C), gradients of all learned tensors), on the CPU, without dropout."""
        learner.eval()
        learner.zero_grad()
        with torch.enable_grad():
            loss, logits = learner.loss(images, torch.arange(len(images), device=images.device) % len(learner.names))
        loss.backward()
        return logits.detach().cpu(), [p.grad.float().cpu() for _, p in learner.named_trainables()]

    def speed(self):
        suites = ("cilmp", "cocoop", "methods")
        cases = [c for c, (suite, _, _) in CASES.items() if suite in suites]
        if self.small:
            cases = ["cilmp/text/eval/b4c8", "coop/text/train/c8"]
        return [self._measured(case) for case in cases]

    def _measured(self, case):
        try:
            return run.measure(case, self.device.type, 2 if self.small else 5)
        except torch.OutOfMemoryError as error:
            return {"case": case, "failed": _words(error)}

    def training(self):
        """The paper's CILMP settings; reduced: one image a class, one epoch, no test."""
        with tempfile.TemporaryDirectory() as folder:
            cfg = base_config()
            for path in method_files("CILMP", "full", "ViT-B/16")[0]:
                cfg.merge_from_file(str(path))
            values = {
                "TRAINER.NAME": "CILMP", "DATASET.NAME": "phantom", "MODEL.BACKBONE.NAME": "ViT-B/16", "SEED": 1,
                "MODEL.BACKBONE.WEIGHTS": "random", "MODEL.LLM": "smollm2-135m", "OPTIM.MAX_EPOCH": 5,
                "OUTPUT_DIR": f"{folder}/run", "VERBOSE": False, "USE_CUDA": self.device.type == "cuda",
                "DATALOADER.NUM_WORKERS": min(8, os.cpu_count()),
            }  # fmt: skip
            if self.small:
                values |= {"DATASET.NUM_SHOTS": 1, "OPTIM.MAX_EPOCH": 1, "DATALOADER.TRAIN_X.BATCH_SIZE": 4,
                           "DATALOADER.NUM_WORKERS": 0, "TEST.NO_TEST": True}  # fmt: skip
            cfg.merge_from_list([x for pair in values.items() for x in pair])
            set_random_seed(1)
            trainer = build_trainer(cfg)
            reset_peak_memory(self.device)
            start = time.perf_counter()
            trainer.train()
            self._wait()
            seconds = time.perf_counter() - start
            learned = trainer.model.checkpoint_state().values()
            return {
                "epochs": trainer.max_epoch, "images": len(trainer.dm.dataset.train_x), "ran": trainer.precision,
                "seconds_with_test": seconds, "seconds_per_step": trainer.seconds_per_step,
                "waiting_share": trainer.waiting_share, "peak_mib": peak_memory_mib(self.device),
                "finite": all(bool(t.isfinite().all()) for t in learned),
                "test_accuracy": None if self.small else trainer.test("test"),
            }  # fmt: skip

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _words(error):
    """Kind and words of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def main(argv=None):
    args = parser().parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check, report, failed = Check(device, args.small or device == "cpu"), {}, []
    for part in args.parts:
        print(f"{part} ...", flush=True)
        start = time.perf_counter()
        try:
            found = getattr(check, part)()
        except Exception as error:  # the owner's hour is not lost: written down, the next part goes on
            found = {"failed": _words(error), "where": traceback.format_exc().splitlines()[-12:]}
            failed.append(part)
        report[part] = {"on_cuda": device == "cuda", "seconds": time.perf_counter() - start, "found": found}
        print(json.dumps(found, indent=1), flush=True)
        write_json(_plain(report), args.out)  # after each part: what is there is kept
    if device == "cpu":
        print("No CUDA here: every part ran on the CPU in a reduced size, amp and fp16 as float32; none ran on CUDA.")
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(f"Send back: {os.path.abspath(args.out)}")
    return int(bool(failed))


def _plain(value):
    """value with numbers that JSON does not have (nan, inf) as words."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    run_main(main)
