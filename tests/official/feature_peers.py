"""Numbers of the official code of methods on frozen features, under made-up features: what ours has to equal.

    taskres       geekyutao/TaskRes 51953596: CustomCLIP and Dassl's Adam, six steps of 14 features
    clap          jusiro/CLAP dbdf4095: AdapterMethod's multipliers, the trainer's epochs and SGD, six of 28 features
    crossmodal    linzhiqiu/cross_modal_adaptation ac9077ee: train() of one setting, 120 steps; heads with WiSE-FT
    transclip     MaxZanella/transduction-for-vlms 6a9e8f3b: TransCLIP_solver without and with shots

`feature_peers.safetensors` holds what they said, float32 on a CPU with torch 2.15. Changed in copies of their code, so
that it runs: no .cuda(), features in place of images, no `verbose` in schedules, `.item()` for a NumPy conversion, no
import of WILDS. Batches are as large as what they are drawn from, so that no order matters. Inputs are not stored:
`inputs()` makes them of SHAKE-256.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from .cilmp import spread

FILE = Path(__file__).with_name("feature_peers.safetensors")
COUNTS = (2, 3, 5, 4)  # training images of each class
C, D, Q, M, VIEWS = len(COUNTS), 24, 40, 20, 2
LOG_SCALE = 4.60517


def load():
    """{method/number: tensor}."""
    return load_file(FILE)


def inputs():
    """Features, none normalised: text (C, D), texts (2 C, D) of two templates, train (VIEWS, N, D), val (M, D), test
    (Q, D), and their labels; `even` (2 C, D): two training images of each class."""
    centre = spread("peers cone", (D,), 4.0) + spread("peers centre", (C, D), 1.0)  # all in a cone, as CLIP's
    around = lambda name, y: centre[y] + spread(f"peers {name}", (len(y), D), 2.0)  # noqa: E731
    labels = {"train": torch.arange(C).repeat_interleave(torch.tensor(COUNTS)), "val": torch.arange(M) % C,
              "test": torch.arange(Q) * 7 % C, "even": torch.arange(2 * C) % C}  # fmt: skip
    found = {"text": 3 * (centre + spread("peers text", (C, D), 1.2))}
    found["texts"] = torch.cat([found["text"], found["text"] + spread("peers second", (C, D), 2.0)])
    found["train"] = torch.stack([around(f"view {v}", labels["train"]) for v in range(VIEWS)])
    found |= {part: around(part, labels[part]) for part in ("val", "test", "even")}
    return found | {f"{part}_labels": y for part, y in labels.items()}
