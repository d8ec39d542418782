"""Weights and inputs of the cases whose numbers are kept here: made of the bytes of a name's hash, not stored.

openai()    the tiny CLIP of cilmp.py with a logit scale of exactly 100, the constant several official codes use
bert()      a BiomedCLIP in small: tests/backbones' ViT and BERT, its vocabulary a stand-in
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from cilmp.backbones.factory import wrap
from cilmp.backbones.registry import OPENAI_MEAN, OPENAI_STD
from cilmp.tests.backbones import small_models
from cilmp.tests.official.cilmp import frozen, shapes, spread

FILE = Path(__file__).with_name("hashed.safetensors")
NAMES = ["normal", "serrated polyp", "adenocarcinoma", "tubular adenoma"]
SENTENCES = [
    "{} seen from above.", "A slide that shows {}.", "{} with a dark rim and pale centre.", "{}.",
    "Microscopy, stained, {}.", "an image of {} tissue in a patient.", "round cells, {}",
    "Typical signs of {} are loss of folds and redness.",
]  # fmt: skip


def openai():
    """{OpenAI's name: tensor}."""
    return {name: frozen(name, shape) for name, shape in shapes().items()} | {"logit_scale": torch.tensor(100.0).log()}


def bert():
    """{open_clip's name: tensor}, a BERT beside a timm ViT."""
    return {name: awake(name, tuple(t.shape)) for name, t in small_models.original("bert").state_dict().items()}


def small_biomedclip():
    """The PromptableCLIP of `bert`."""
    model = small_models.original("bert")
    model.load_state_dict(bert())
    facts = {"name": "small-biomedclip", "mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic"}
    return wrap(model.requires_grad_(False), small_models.tokenizer("bert"), facts)


def awake(name, shape):
    """A weight of a size at which attention is neither flat nor one-hot."""
    if name == "logit_scale":
        return torch.tensor(math.log(100.0))
    if len(shape) == 1:
        return spread(name, shape, 0.4) + float("norm" in name.lower() and name.endswith("weight"))
    embedded = any(word in name for word in ("embeddings.", "pos_embed", "cls_token"))
    return spread(name, shape, 1.0 if embedded else 2.0 * int(np.prod(shape[1:])) ** -0.5)


def images(count, name="images"):
    return spread(name, (count, 3, 32, 32), 2.0)


def labels(count):
    return torch.arange(count) % len(NAMES)


def learned(case, name, shape):
    """A learned tensor under its official name."""
    return spread(f"{case} {name}", shape, 2.5 * shape[-1] ** -0.5 if len(shape) > 1 else 0.4)


# ---- cases


def kept():
    """{name: meta} of the cases in hashed.safetensors."""
    with safe_open(FILE, "np") as file:
        return json.loads(file.metadata()["cases"])


def load(name):
    """A case with its inputs and learned tensors, made anew."""
    meta = {"names": NAMES, "preset": "bert" if name.endswith("biomedclip") else "openai"} | kept()[name]
    if meta["method"] == "BiomedCoOp":
        meta["sentences"] = {n: [s.format(n) for s in SENTENCES] for n in NAMES}
    case = {k.removeprefix(f"{name}/"): v for k, v in load_file(FILE).items() if k.startswith(f"{name}/")}
    for gradient in [k for k in case if k.startswith("grad/")]:
        own = gradient.removeprefix("grad/")
        shape = tuple(meta.get("thinned", {}).get(own, case[gradient].shape))
        case[f"learned/{own}"] = learned(name, own, shape)
    count = len(case["logits"])
    case |= {"meta": meta, "images": images(count), "labels": torch.tensor(meta.get("labels", labels(count).tolist()))}
    return case | INPUTS.get(meta["method"], lambda case: {})(case)


def svd_inputs(case):
    """Singular values around the first ones."""
    first = {k.removeprefix("extra/"): v for k, v in case.items() if k.startswith("extra/")}
    return {f"learned/{k}": v * (1 + spread(f"clipsvd {k}", tuple(v.shape), 0.4)) for k, v in first.items()}


def tip_inputs(case):
    """Two views of eight images; keys that have moved away from them."""
    views = torch.stack([images(8, f"view {v}") for v in range(2)])
    moved = case["extra/keys"] + spread("tip keys", (8, 128), 0.05)
    held = {"extra/val": images(20, "val"), "extra/val_labels": torch.tensor(case["meta"]["val_labels"])}
    return held | {"extra/views": views, "extra/support": labels(8), "learned/keys": moved, "images": images(5, "test")}


def lp2_inputs(case):
    return {
        "extra/images": images(8, "view 0"),
        "extra/support": labels(8),
        "extra/bias": spread("lp2 bias", (4,), 0.1),
    }


def probe_inputs(case):
    """Unit features around four centres; every third group of training labels is turned by one."""
    true, centres = labels(64), spread("linearprobe centres", (4, 128), 1.0)
    turned = (true + (torch.arange(64) // 4 % 3 == 0)) % 4
    x, held, v = (
        F.normalize(spread(f"linearprobe {name}", (count, 128), 1.0) + 0.25 * centres[labels(count)], dim=-1)
        for name, count in (("train", 64), ("val", 16), ("test", 6))
    )
    return {"extra/x": x, "extra/support": turned, "extra/val": held, "extra/val_labels": labels(16), "extra/v": v}


INPUTS = {"CLIPSVD": svd_inputs, "TipAdapter": tip_inputs, "LP2": lp2_inputs, "LinearProbe": probe_inputs}
