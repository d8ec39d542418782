"""What a run computes in: its towers in what `PREC` says, everything after them in float32.

    fp32   float32
    amp    towers under float16 autocast, gradients scaled (as the official codes); needs CUDA
    bf16   towers under bfloat16 autocast, no scaler; CUDA, or CPU
    fp16   towers with float16 weights; needs CUDA

`fp32` is float32 throughout, also where CUDA's convolutions would round to TF32. `amp`'s scaler leaves out a step whose
gradients overflow and halves its scale; such a step is made again (`PromptTrainer.one_step`).

CLIP's logits are near 27 and its classes about 1.3 apart, while bfloat16 has steps of 0.125 there: scores in it tie
classes and change decisions. So autocast surrounds the towers' `encode` alone; features leave it as float32, and
norms, cosines, losses, learned parts outside the towers, means and texts encoded once never enter it.
"""

import contextlib
import functools
import os

import torch

from dassl.utils.errors import ConfigError

AUTOCAST = {"fp32": None, "amp": torch.float16, "bf16": torch.bfloat16, "fp16": None}
NEED_CUDA = ("amp", "fp16")


def runs_as(word, device):
    """The precision a device runs where `word` is asked for: float32 where the word needs CUDA and there is none."""
    return "fp32" if word in NEED_CUDA and device.type != "cuda" else word


def in_towers(clip, word):
    """Let both towers of a PromptableCLIP encode in this precision, whatever autocast surrounds the call."""
    clip.text.autocast = clip.image.autocast = AUTOCAST[word]
    return clip


def full_precision(function):
    """A learner's method (self, tensor, ...) that computes in float32 also where its caller uses autocast."""

    @functools.wraps(function)
    def run(self, tensor, *args):
        with torch.autocast(tensor.device.type, enabled=False):
            return function(self, tensor, *args)

    return run


@contextlib.contextmanager
def reproducible(device, wanted=True):
    """On CUDA, the operations that give the same bits each time (attention's backward has faster ones, too).

    Raises:
        ConfigError: an operation has no such form.
    """
    if device.type != "cuda" or not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is asked for the same
    fills = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, fills.fill_uninitialized_memory = fills.fill_uninitialized_memory, False  # costs time, hides nothing here
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = str(error).split(" does not have")[0].splitlines()[0]
        raise ConfigError(f"{what} has no form on CUDA that gives the same bits each time: "
                          "set TRAIN.DETERMINISTIC False, and repeated runs differ in their last digits") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        fills.fill_uninitialized_memory = filled
