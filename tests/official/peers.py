"""Numbers of peers' official code on a tiny CLIP: what ours has to equal.

`mmrl.safetensors` (yunncheng/MMRL at 27d8821f) and `two_sfs.safetensors` (FarinaMatteo/rethinking_fewshot_vlms at
64ac143c): float32, CPU, torch 2.15; of their code only .cuda() was left out. Inputs and weights are not stored, see
`cilmp.py`: each is made of the bytes of its name. Here both towers have three layers.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from cilmp.backbones.factory import wrap
from cilmp.backbones.registry import OPENAI_MEAN, OPENAI_STD
from cilmp.backbones.tokens import clip_bpe

from . import cilmp

CLASSES = ["normal", "serrated", "adenocarcinoma", "tubular_adenoma"]
NEW = ["drusen", "serrated", "macular edema"]  # one of them is known
SIZE = 32


def shapes():
    """{OpenAI's name: shape}: text 3 layers of 128, image 3 layers of 64."""
    found = cilmp.shapes()
    third = {n.replace("blocks.1.", "blocks.2."): s for n, s in found.items() if n.startswith("visual.") and ".1." in n}
    return found | third


def clip_state():
    """The frozen weights, in OpenAI's layout; logit scale 100. Rounded to half precision, as OpenAI's are: the official
    codes load them so."""
    state = {name: cilmp.frozen(name, shape).half().float() for name, shape in shapes().items()}
    return state | {"logit_scale": torch.tensor(100.0).log()}


def images(name, count):
    """(count, 3, 32, 32)."""
    return cilmp.spread(name, (count, 3, SIZE, SIZE), 2.0)


def numbers(method):
    """{name: tensor} of the official run."""
    return load_file(Path(__file__).with_name(f"{method}.safetensors"))


def clip():
    """The frozen PromptableCLIP."""
    model = cilmp.model({f"clip/{name}": tensor for name, tensor in clip_state().items()})
    facts = {"name": "tiny", "mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic"}
    return wrap(model, clip_bpe(), facts)


def learned(case, name, shape):
    """A learned tensor of a case, by its official name."""
    return cilmp.spread(f"{case} {name}", shape, 2.0 * shape[-1] ** -0.5 if len(shape) > 1 else 0.4)
