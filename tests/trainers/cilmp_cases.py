"""Our CILMP learner beside the plain form: the same learned tensors under the official names."""

import torch
from yacs.config import CfgNode

from cilmp.backbones.factory import wrap
from cilmp.backbones.registry import OPENAI_MEAN, OPENAI_STD
from cilmp.backbones.tokens import clip_bpe
from cilmp.tests.backbones.small_models import original, small, tokenizer
from cilmp.tests.official import cilmp as numbers
from cilmp.trainers.cilmp import CILMP, CILMPLearner


def node(**options):
    """TRAINER.CILMP with some keys changed."""
    return CfgNode({**CILMP.defaults, **options})


def learner(clip, classnames, llm, **options):
    """CILMPLearner over ragged rows llm: C tensors (L_c, D)."""
    lengths = torch.tensor([len(h) for h in llm])
    padded = torch.stack([torch.nn.functional.pad(h, (0, 0, 0, int(lengths.max()) - len(h))) for h in llm])
    return CILMPLearner(node(**options), clip, classnames, knowledge=(padded, lengths))


def named_levels(model):
    """{official name: (our parameter, level or None)}."""
    table = {}
    for i in range(model.depth):
        at = "prompt_learner." if i == 0 else f"text_encoder.transformer.resblocks.{i}."
        table[at + ("VPT_shallow" if i else "ctx")] = (model.ctx, i)
        table[f"{at}lora_proj.lora_A"], table[f"{at}lora_proj.lora_B"] = (model.A, i), (model.Bp, i)
        for kind in ("prefix", "suffix"):
            own, name = getattr(model, kind), f"{at}{kind}_intervention."
            table[f"{name}rotate_layer.weight"] = (own.rotate, i)
            table[f"{name}learned_source.weight"] = (own.source, i)
            table[f"{name}learned_source.bias"] = (own.source_bias, i)
            table[f"{name}image_feature_learned_weight.0.weight"] = (own.down, i)
            table[f"{name}image_feature_learned_weight.0.bias"] = (own.down_bias, i)
            table[f"{name}image_feature_learned_weight.1.weight"] = (own.up, i)
            table[f"{name}image_feature_learned_weight.1.bias"] = (own.up_bias, i)
    if model.visual.ctx is not None:
        for i in range(len(model.visual.ctx)):
            name = f"image_encoder.transformer.resblocks.{i}.VPT_shallow" if i else "image_encoder.VPT"
            table[name] = (model.visual.ctx, i)
    return table


def official_tensors(model):
    """{official name: leaf tensor} with our values."""
    return {k: p.detach()[i].clone().requires_grad_() for k, (p, i) in named_levels(model).items()}


def official_gradients(model):
    return {k: p.grad[i] for k, (p, i) in named_levels(model).items()}


def load_official(model, tensors):
    with torch.no_grad():
        for name, (parameter, level) in named_levels(model).items():
            parameter[level] = tensors[name]


def official_learner(case):
    """Our learner of a case of official numbers, with its weights and learned tensors."""
    facts = {"name": "official", "mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic"}
    meta = case["meta"]
    model = learner(
        wrap(numbers.model(case), clip_bpe(), facts), meta["classes"],
        [case[f"llm/{k}"] for k in range(len(meta["classes"]))], PREFIX_LENGTH=meta["prefix"],
        SUFFIX_LENGTH=meta["suffix"], LOW_RANK_DIMENSION=meta["rank"], N_CTX_TEXT=meta["n_ctx"],
        N_CTX_VISION=meta["n_ctx_vision"], PROMPT_DEPTH_TEXT=meta["depth"], PROMPT_DEPTH_VISION=meta["depth"],
    )  # fmt: skip
    load_official(model, numbers.part(case, "learned/"))
    return model.eval()


def wake(model, seed=0):
    """Random values large enough that the image path moves the logits."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.7 * p.shape[-1] ** -0.5)
        for kind in (model.prefix, model.suffix):
            if kind.conditional:
                kind.up_bias.add_(0.5)


def rows(lengths, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=g) * 2 for n in lengths]


__all__ = ["learner", "load_official", "named_levels", "node", "official_gradients", "official_learner",
           "official_tensors", "original", "rows", "small", "tokenizer", "wake"]  # fmt: skip
