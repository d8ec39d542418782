"""CILMP in plain form: interventions on D-wide rows (B, C, L, D), then A, Bp, then the plain towers.

Learned tensors go under the official names. With v the unit image feature, h a row of the class, [;] concatenation:

    g = W_b (W_a v + b_a) + b_b          u = [h ; g * h]          e = h + R (W_s u + b_s - R' h)
    y = Bp A e                           rows between prefix and suffix: e = h
"""

import torch
import torch.nn.functional as F

from .image import plain_image
from .text import Slot, plain_text


def plain_cilmp(model, learned, llm, ids, images, prefix, suffix, start=1):
    """dict of image_features (unit), prompts, deep_llm {i: (B, C, L, d_t)}, text_features, logits.

    Args:
        model: open_clip model, frozen.
        learned: {official name: tensor}.
        llm: C tensors (L_c, D).
        ids: (C, T) ids of "<name>." alone.
        images: (B, 3, H, H). prefix, suffix: rows intervened on. start: 1 if sentences have a start token.
    """
    v = F.normalize(plain_image(model, images, _visual_levels(learned)), dim=-1)
    contexts, modules = _text_levels(learned)
    rows = [plain_rows(learned, m, v, llm, prefix, suffix) for m in modules]  # J x (B, C, L, d_t)
    B, C = rows[0].shape[:2]
    levels = [torch.cat([ctx.expand(B, C, -1, -1), y], dim=2) for ctx, y in zip(contexts, rows)]
    valid = [contexts[0].shape[0] + len(h) for h in llm]
    text, prompts = plain_text(model, ids, [Slot(levels, start, valid)], details=True)
    logits = model.logit_scale.exp() * torch.einsum("bd,bcd->bc", v, F.normalize(text, dim=-1))
    deep = {i: y for i, y in enumerate(rows) if i}
    return {"image_features": v, "prompts": prompts, "deep_llm": deep, "text_features": text, "logits": logits}


def plain_rows(learned, name, v, llm, prefix, suffix):
    """LLM tokens (B, C, L, d_t) of one level; rows beyond a class's own length are zero."""
    D, longest = llm[0].shape[1], max(len(h) for h in llm)
    assert all(len(h) >= prefix + suffix for h in llm)
    h = torch.stack([F.pad(t, (0, 0, 0, longest - len(t))) for t in llm])  # (C, L, D)
    row, length = torch.arange(longest), torch.tensor([len(t) for t in llm])[:, None]
    first = (row < prefix).expand(len(llm), -1)  # (C, L)
    last = (row >= length - suffix) & (row < length)
    e = h[None].expand(len(v), -1, -1, -1)  # (B, C, L, D)
    for which, kind in ((first, "prefix"), (last, "suffix")):
        changed = intervene(learned, f"{name}{kind}_intervention.", v, h)
        e = torch.where(which[None, :, :, None], changed, e)
    assert e.shape[-1] == D
    return e @ learned[f"{name}lora_proj.lora_A"].T @ learned[f"{name}lora_proj.lora_B"].T


def intervene(learned, name, v, h):
    """e (B, C, L, D) of all rows h (C, L, D) for unit image features v (B, d)."""
    R = learned[f"{name}rotate_layer.weight"]
    W_s, b_s = learned[f"{name}learned_source.weight"], learned[f"{name}learned_source.bias"]
    W_a, b_a = (learned[f"{name}image_feature_learned_weight.0.{k}"] for k in ("weight", "bias"))
    W_b, b_b = (learned[f"{name}image_feature_learned_weight.1.{k}"] for k in ("weight", "bias"))
    g = (v @ W_a.T + b_a) @ W_b.T + b_b  # (B, D)
    h = h[None].expand(len(v), -1, -1, -1)
    u = torch.cat([h, g[:, None, None] * h], dim=-1)  # (B, C, L, 2D)
    return h + (u @ W_s.T + b_s - h @ R) @ R.T


def _visual_levels(learned):
    levels = [learned["image_encoder.VPT"]] if "image_encoder.VPT" in learned else []
    while (key := f"image_encoder.transformer.resblocks.{len(levels)}.VPT_shallow") in learned:
        levels.append(learned[key])
    return levels


def _text_levels(learned):
    """Context tokens of every level, and the name prefix of its modules."""
    contexts, names = [learned["prompt_learner.ctx"]], ["prompt_learner."]
    while (key := f"text_encoder.transformer.resblocks.{len(contexts)}.VPT_shallow") in learned:
        contexts.append(learned[key])
        names.append(key.removesuffix("VPT_shallow"))
    return contexts, names
