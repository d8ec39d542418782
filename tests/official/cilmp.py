"""Numbers of the official CILMP (usr922/cilmp at b6db230a) on three tiny cases: what ours has to equal, everywhere.

`cilmp.safetensors` holds what its CustomCLIP said in evaluation, float32 on a CPU with torch 2.15: image features (raw
tower output made unit), text features, logits, their cross-entropy and the gradient of every learned tensor. Of its
code three things were changed, in a copy: no .cuda(), no half precision, LLM width 4096 -> 24.

Inputs and weights are not stored: each is made of the bytes of SHAKE-256 of its name, the same on every machine. The
image path is awake: texts of another image move the logits by 0.28 and more.

`load("shared", folder)` is a fourth case at LLM width 4096, its 17 MB beside the repository and not in it.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cilmp.backbones.checkpoints import architecture_of, copy_into
from cilmp.backbones.factory import build

FILE = Path(__file__).with_name("cilmp.safetensors")
TISSUES = ["normal", "serrated", "adenocarcinoma", "tubular adenoma"]
CASES = {
    "ragged": {"classes": TISSUES, "rows": [5, 9, 4, 7], "depth": 2},
    "even": {"classes": ["benign", "malignant", "normal"], "rows": [6, 6, 6], "depth": 3},
    "intervened": {"classes": ["drusen", "macular edema"], "rows": [4, 4], "depth": 3},  # prefix and suffix, no more
}
B, D = 3, 24  # images, LLM width
TEXT, VISION = (128, 3), (64, 2)  # width and layers of a tower
SIZES = {"prefix": 2, "suffix": 2, "rank": 3, "n_ctx": 4, "n_ctx_vision": 2}


def load(case, folder=None):
    """Everything of a case, by name: clip/, learned/ and grad/ with official names, llm/0.., images, labels, meta and
    the official image_features, text_features, logits and loss.

    Args:
        case: one of CASES, or "shared".
        folder: where "shared" lies.
    """
    if case == "shared":
        with np.load(folder / "cilmp_tiny_eight_classes.npz", allow_pickle=False) as file:
            numbers = {k: torch.from_numpy(np.array(file[k])) for k in file.files if k != "meta"}
            meta = {"rank": 8, "n_ctx": 4, "n_ctx_vision": 4} | json.loads(str(file["meta"]))
        return numbers | {"meta": meta}
    facts, numbers = CASES[case], {}
    for name, tensor in load_file(FILE).items():
        if name.startswith(f"{case}/"):
            numbers[name.removeprefix(f"{case}/")] = tensor
    for name in [n.removeprefix("grad/") for n in numbers if n.startswith("grad/")]:
        shape = numbers[f"grad/{name}"].shape
        scale = 2.5 * shape[-1] ** -0.5 if len(shape) > 1 else 0.4
        numbers[f"learned/{name}"] = spread(f"{case} {name}", shape, scale)
    for c, (name, rows) in enumerate(zip(facts["classes"], facts["rows"])):
        numbers[f"llm/{c}"] = spread(f"{case} llm {name}", (rows, D), 3.0)
    numbers |= {f"clip/{name}": frozen(name, shape) for name, shape in shapes().items()}
    numbers |= {"clip/logit_scale": torch.tensor(4.6), "labels": torch.arange(B) % len(facts["classes"])}
    return numbers | {"images": spread(f"{case} images", (B, 3, 32, 32), 2.0), "meta": facts | SIZES}


def spread(name, shape, scale):
    """A tensor of numbers in [-scale, scale), multiples of scale / 128."""
    digest = hashlib.shake_256(name.encode()).digest(int(np.prod(shape)))
    return torch.from_numpy(np.frombuffer(digest, np.int8).astype(np.float32).reshape(shape) * np.float32(scale / 128))


def frozen(name, shape):
    """A weight of the tiny CLIP, of a size at which attention is neither flat nor one-hot."""
    if len(shape) == 1:
        return spread(name, shape, 0.4) + float(".ln_" in f".{name}" and name.endswith("weight"))
    if "embedding" in name:
        return spread(name, shape, 1.0)
    rows = shape[0] if name in ("text_projection", "visual.proj") else int(np.prod(shape[1:]))
    return spread(name, shape, 2.0 * rows**-0.5)


def shapes():
    """{OpenAI's name: shape} of the tiny CLIP, 32 pixels in patches of 16."""
    (t, _), (v, _) = TEXT, VISION
    found = {
        "text_projection": (t, t), "positional_embedding": (77, t), "token_embedding.weight": (49408, t),
        "visual.class_embedding": (v,), "visual.positional_embedding": (5, v), "visual.proj": (v, t),
        "visual.conv1.weight": (v, 3, 16, 16),
    }  # fmt: skip
    norms = [("ln_final", t), ("visual.ln_pre", v), ("visual.ln_post", v)]
    for at, (w, layers) in (("transformer", TEXT), ("visual.transformer", VISION)):
        for block in (f"{at}.resblocks.{i}" for i in range(layers)):
            norms += [(f"{block}.ln_1", w), (f"{block}.ln_2", w)]
            found |= {f"{block}.attn.in_proj_weight": (3 * w, w), f"{block}.attn.in_proj_bias": (3 * w,)}
            for part, out, into in (("attn.out_proj", w, w), ("mlp.c_fc", 4 * w, w), ("mlp.c_proj", w, 4 * w)):
                found |= {f"{block}.{part}.weight": (out, into), f"{block}.{part}.bias": (out,)}
    return found | {f"{n}.{kind}": (w,) for n, w in norms for kind in ("weight", "bias")}


def part(numbers, prefix):
    """{name without the prefix: tensor}."""
    return {k.removeprefix(prefix): v for k, v in numbers.items() if k.startswith(prefix)}


def model(numbers):
    """The frozen open_clip model of a case."""
    state = part(numbers, "clip/")
    clip = build(architecture_of({**state, "vocab_size": torch.tensor(0)}, "the official numbers"))
    copy_into(clip, state, "the official numbers")
    return clip.requires_grad_(False)


@pytest.fixture(scope="module", params=[*CASES, "shared"])
def official(request):
    """The numbers of each case, and of the larger one of the trial data where these are."""
    folder = request.getfixturevalue("shared_data") / "oracle" if request.param == "shared" else None
    return load(request.param, folder)
