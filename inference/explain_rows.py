"""What words and rows an answer stood on: LLM rows (CILMP), the LLM's own sentences, words near learned contexts."""

import contextlib
import json

import torch
from safetensors import safe_open

from cilmp.backbones.rank import RankKV
from cilmp.experiments import kept as keeping
from dassl.utils.io import read_json

from .explain_maps import log_odds

NEAREST = 3  # words shown of a learned context vector


def rows_leaned_on(model, image, c):
    """One dict a row of what the LLM said of class c, in their order; [] of a method without such rows.

    row             its number from 0, among those the method reads
    part            prefix, between or suffix; a row between is not intervened on
    contribution    what attention to its tokens adds to the log-odds of the class, to first order: sum over layers,
                    heads and queries of A dy/dA. (Not u dy/du, which is 0: LayerNorm does not see a token's length.)
    moved           |e - h| / |h|, how far the intervention moved the row, mean over levels
    moved_by_image  |R M z| / |h|, the part of it that comes through the gate and differs from image to image

    Letters: `cilmp/trainers/interventions.py`.
    """
    learner = model.trainer.model
    if not hasattr(learner, "image_free"):
        return []
    parts = [("prefix", learner.h_prefix), ("between", learner.h_between), ("suffix", learner.h_suffix)]
    counts = {"between": int(learner.lengths[c]) - learner.h_prefix.shape[1] - learner.h_suffix.shape[1]}
    found, widths = [], [(name, h.shape[1]) for name, h in parts if h.shape[1]]
    with torch.no_grad():
        v = model.image_features(image[None])
    for (name, width), gains in zip(widths, contributions(model, image, c)):
        moved, by_image = interventions(learner, name, v, c)
        for i in range(counts.get(name, width)):
            found.append({"row": len(found), "part": name, "contribution": float(gains[i]),
                          "moved": float(moved[i]), "moved_by_image": float(by_image[i])})  # fmt: skip
    return found


def contributions(model, image, c):
    """[(P,)] of every run of LLM tokens: A dy/dA, summed over layers, heads and queries, y the log-odds of class c."""
    learner = model.trainer.model
    runs = sum(h.shape[1] > 0 for h in (learner.h_prefix, learner.h_between, learner.h_suffix))
    with torch.enable_grad(), attention_to_rows() as seen:
        odds = log_odds(model.logits(image[None].to(model.device).requires_grad_()))[0, c]
        slopes = torch.autograd.grad(odds, seen)
    gains = [(a * g)[0, min(c, a.shape[1] - 1)].sum((0, 1)).detach() for a, g in zip(seen, slopes)]
    return [sum(gains[i::runs]) for i in range(runs)]


@contextlib.contextmanager
def attention_to_rows():
    """The attention weights (b, c, heads, s, P) of LLM tokens in here, in order: the runs of a layer in turn."""
    own, seen = RankKV.mix, []

    def mix(self, a):
        a = a if a.requires_grad else a.detach().requires_grad_()  # texts that no image moves
        seen.append(a)
        return own(self, a)

    RankKV.mix = mix
    try:
        yield seen
    finally:
        RankKV.mix = own


@torch.no_grad()
def interventions(learner, part, v, c):
    """(|e - h| / |h|, |R M z| / |h|), (P,) each, means over levels, of class c's rows and a unit feature v (1, d)."""
    h = getattr(learner, f"h_{part}")[c : c + 1]
    if part == "between":
        return torch.zeros(h.shape[1]), torch.zeros(h.shape[1])
    module = getattr(learner, part)
    terms, R = module.source_terms(h), module.rotation()
    w = module.differences(terms, v)[:, 0, 0]  # (J, P, r)
    size = h[0].norm(dim=-1).clamp(min=torch.finfo(h.dtype).tiny)
    both = (torch.einsum("jdr,jpr->jpd", R, x).norm(dim=-1) / size for x in (w, w - terms[0][:, 0]))
    return tuple(x.mean(0) for x in both)


def said(model, c):
    """{"question", "answers"} of class c as the run kept them; {} of a method that reads no language model."""
    asked = model.kept["knowledge_names"][c]
    if (path := model.folder / keeping.SENTENCES).is_file():
        return {"question": "", "answers": read_json(path)[asked]}
    if not (path := model.folder / keeping.ROWS).is_file():
        return {}
    with safe_open(path, "pt") as f:
        metadata = f.metadata() or {}
    question, answer = (json.loads(metadata.get(k, "{}")).get(asked, "") for k in ("questions", "answers"))
    return {"question": question, "answers": [answer] if answer else []}


# ---- words of learned contexts


@torch.no_grad()
def words(model, c):
    """[[(word, distance)] a context vector] of the first level, nearest words of the vocabulary first; class c's where
    a class has its own. Euclidean distance between token embeddings (CoOp's interpret_prompt). [] without a context."""
    learner, text = model.trainer.model, model.trainer.clip.text
    found = [p for n, p in learner.named_parameters() if n.rpartition(".")[2] == "ctx" and not n.startswith("visual")]
    if not found or found[0].shape[-1] != text.width:
        return []
    ctx, table = found[0].float(), text.token_embedding.weight.float()
    if ctx.dim() == 3:  # a set a class, or a set a level
        ctx = ctx[c if "ctx" in learner.bound_to_classes(learner.node) else 0]
    near = torch.cdist(ctx, table, compute_mode="donot_use_mm_for_euclid_dist").topk(NEAREST, largest=False)
    name = _speller(text.tokenizer)
    return [[(name(i), round(float(d), 4)) for i, d in zip(*pair)]
            for pair in zip(near.indices.tolist(), near.values.tolist())]  # fmt: skip


def _speller(tokenizer):
    """id -> its word."""
    inner = getattr(tokenizer, "encode", tokenizer)
    inner = getattr(inner, "tokenizer", inner)
    if hasattr(inner, "decode"):
        return lambda i: inner.decode([i]).strip()
    return lambda i: f"token {i}"
