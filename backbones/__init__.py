"""One interface over the CLIP family: `load` a backbone by name, prompt its text and image towers.

    clip = backbones.load("ViT-B/16")
    clip.text.encode_strings(["a photo of a melanoma."])     (C, d)
    clip.image.encode(images, ctx, deep)                     (B, d)
    clip.image.encode_late(images, levels, enters)           (B, d) and (B, n, d_v)
"""

from .factory import fetch, input_facts, load
from .identity import weights_sha256
from .model import PromptableCLIP
from .registry import known

__all__ = ["PromptableCLIP", "fetch", "input_facts", "known", "load", "weights_sha256"]
