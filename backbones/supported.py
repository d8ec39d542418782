"""What no family covers, told from the configuration alone: before weights are fetched or anything is built."""

from dataclasses import fields

from dassl.utils.errors import UserError

POOLERS = ("cls_pooler", "cls_last_hidden_state_pooler")  # of transformers' encoders: one token, so one query
NOT_BERT = ("roberta", "nllb", "mt5")  # encoders of other blocks among open_clip's own configurations
CLIP_FIELDS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale",
               "init_logit_bias", "nonscalar_logit_scale"}  # fmt: skip


def check_supported(name, config):
    """Refuse an open_clip model configuration that cannot become a PromptableCLIP. name: of the backbone, for messages.

    Raises:
        UserError: CoCa, text towers other than open_clip's and BERT's, settings that open_clip does not know.
    """
    if reason := _reason(config):
        raise UserError(f"backbone {name}: {reason}: use another backbone, as ViT-B/16 or BiomedCLIP")


def _reason(config):
    text = config["text_cfg"]
    if "multimodal_cfg" in config:
        return "CoCa (a captioning tower on top of the two) is not supported"
    if unknown := _unknown_settings(config):
        return f"its configuration has settings of its authors' own, unknown to open_clip ({', '.join(unknown)})"
    if model := text.get("hf_model_name"):
        pooler = text.get("hf_pooler_type", "mean_pooler")
        if pooler not in POOLERS or any(word in model.lower() for word in NOT_BERT):
            return f"the text tower {model} ({pooler}) is not supported, of transformers' only BERT pooled at [CLS] is"
    return ""


def _unknown_settings(config):
    """Dotted names of what open_clip's dataclasses have no field for."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    known = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg}
    unknown = sorted(config.keys() - CLIP_FIELDS)
    for part, kind in known.items():
        unknown += [f"{part}.{key}" for key in config[part] if key not in {f.name for f in fields(kind)}]
    return unknown
