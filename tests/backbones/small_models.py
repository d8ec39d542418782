"""Small random models of every family, wide awake: all weights random, no two widths alike.

    model = original("bert")        the open_clip model itself
    clip = small("bert")            the PromptableCLIP of the same weights
"""

import copy
import functools
import math

import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from cilmp.backbones.factory import build, wrap
from cilmp.backbones.registry import OPENAI_MEAN, OPENAI_STD
from cilmp.backbones.tokens import clip_bpe, kind_of, stand_in

FAMILIES = ("openai", "resnet", "bert", "siglip")
OTHER_TOWERS = {"resnet": "ResNet", "convnext": "ConvNeXt", "eva": "Eva"}  # no visual prompt reaches them
MORE = ("siglip2", "metaclip2", "mobileclip", "clipa")  # the same parts put together in other ways
VOCABULARY = 2000
TEXT = {"width": 32, "heads": 2, "layers": 4}
VISION = {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 3}
BERT = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": 0}  # fmt: skip
HF_TEXT = {"hf_model_name": "small", "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler",
           "context_length": 64}  # fmt: skip


def _trunk(**kwargs):
    kwargs = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool", "class_token")}
    trunk = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, **kwargs)
    trunk.default_cfg = {}
    return trunk


def small_vit_token(pretrained=False, **kwargs):
    return _trunk(**kwargs)


def small_vit_map(pretrained=False, **kwargs):
    return _trunk(class_token=False, **kwargs)


def small_convnext(pretrained=False, **kwargs):
    kwargs = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool")}
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), **kwargs)
    model.default_cfg = {}
    return model


def small_eva(pretrained=False, **kwargs):
    """Gated MLPs, rotary positions: EVA-02."""
    kwargs = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool")}
    model = Eva(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, swiglu_mlp=True, use_rot_pos_emb=True,
                ref_feat_shape=(4, 4), **kwargs)  # fmt: skip
    model.default_cfg = {}
    return model


for _entry in (small_vit_token, small_vit_map, small_convnext, small_eva):
    if not timm.is_model(_entry.__name__):
        timm.models.register_model(_entry)


CONFIGS = {
    "openai": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64},
        "text_cfg": TEXT,
    },
    "bert": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "small_vit_token", "timm_pool": "", "timm_proj": "linear", "image_size": 32},
        "text_cfg": HF_TEXT,
    },
    "siglip": {
        "embed_dim": 48,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "small_vit_map", "timm_pool": "map", "timm_proj": "none", "image_size": 32},
        "text_cfg": {**TEXT, "context_length": 40, "vocab_size": VOCABULARY, "no_causal_mask": True,
                     "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
    },
}  # fmt: skip
CONFIGS |= {
    "siglip2": {
        **CONFIGS["siglip"],
        "text_cfg": {**CONFIGS["siglip"]["text_cfg"], "act_kwargs": {"approximate": "tanh"},
                     "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2"},
    },
    "metaclip2": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "vocab_size": VOCABULARY, "context_length": 40, "pool_type": "eos", "eos_id": 2,
                     "hf_tokenizer_name": "facebook/xlm-v-base"},
    },
    "mobileclip": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64},
        "text_cfg": {**TEXT, "no_causal_mask": True},
    },
    "convnext": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "small_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "text_cfg": TEXT,
    },
    "eva": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "small_eva", "timm_pool": "token", "timm_proj": None, "image_size": 32},
        "text_cfg": TEXT,
    },
    "clipa": {
        "embed_dim": 24,
        "vision_cfg": {**VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "vocab_size": VOCABULARY, "context_length": 32, "pool_type": "last",
                     "no_causal_mask": True, "hf_tokenizer_name": "bert-base-uncased"},
    },
}  # fmt: skip


def tokenizer(family):
    """The family's tokenizer, without any download."""
    text = CONFIGS[family]["text_cfg"]
    if family in ("bert", "siglip"):
        return stand_in(family, VOCABULARY)
    return stand_in(kind_of(text), VOCABULARY) if "hf_tokenizer_name" in text else clip_bpe()


@functools.cache
def _original(family, seed, layers):
    config = copy.deepcopy(CONFIGS[family])
    bert = dict(BERT) if family == "bert" else None
    if layers is not None:
        config["text_cfg"]["layers"] = layers
        if bert:
            bert["num_hidden_layers"] = layers
            config["text_cfg"].pop("layers")
        if "patch_size" in config["vision_cfg"]:
            config["vision_cfg"]["layers"] = layers
    model = build(config, bert, seed)
    shake(model, seed)
    return model.requires_grad_(False)


def original(family, seed=0, layers=None):
    """A fresh open_clip model of a family, random in every weight. layers: of the text tower (and open_clip ViTs)."""
    return copy.deepcopy(_original(family, seed, layers))


def small(family, seed=0, layers=None):
    """The PromptableCLIP of `original(family, seed, layers)`."""
    facts = {"name": f"small-{family}", "mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic"}
    return wrap(original(family, seed, layers), tokenizer(family), facts)


def shake(model, seed):
    """Random values everywhere, of sizes at which attention is neither flat nor one-hot."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if name.endswith("logit_scale"):
                p.fill_(math.log(20.0))
            elif "norm" in name.lower() or ".ln" in name or "ln_" in name or ".bn" in name or "downsample.1" in name:
                p.copy_(noise * 0.2 + (1.0 if name.endswith("weight") else 0.0))
            elif p.dim() < 2:
                p.copy_(noise * 0.2)
            elif "embed" in name or "latent" in name:
                p.copy_(noise * 0.5)
            else:
                p.copy_(noise * 1.2 * p[0].numel() ** -0.5)
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn(b.shape, generator=g) * 0.1)
            elif name.endswith("running_var"):
                b.copy_(torch.rand(b.shape, generator=g) + 0.5)


def images(family, count=3, seed=0):
    """Random normalised images (B, 3, H, H) of the family's size."""
    size = CONFIGS[family]["vision_cfg"]["image_size"]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
