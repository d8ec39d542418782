"""From open_clip's models to the parts of our towers: one function a family.

Text: open_clip's TextTransformer (causal as OpenAI's and MetaCLIP 2, or bidirectional as SigLIP) and BERT encoders.
Vision: open_clip's ViT, timm's ViT (with class token, average or attention pooling), and whole towers that no prompt
can reach (ResNets, ConvNeXt, FastViT, EVA, ViTamin ...).
"""

import torch
from torch import nn

from dassl.utils.errors import UserError

from .blocks import convert
from .parts import TextParts, as_projection
from .vision import ImageParts


def text_parts(model, tokenizer):
    """TextParts of an open_clip CLIP or CustomTextCLIP.

    Args:
        tokenizer: object of backbones.tokenizers: callable, with `starts` and `pad_id`.

    Raises:
        UserError: a text tower that no family covers.
    """
    text = getattr(model, "text", model)
    if type(text).__name__ == "HFTextEncoder":
        return _bert(text, tokenizer, model.context_length)
    return _clip_text(text, tokenizer)


POOLED = {  # (causal, open_clip's pool_type): which token
    (True, "argmax"): "eos", (True, "eos"): "eos", (False, "argmax"): "eos", (False, "last"): "last",
    (False, "first"): "first",
}  # fmt: skip


def _clip_text(text, tokenizer):
    """Causal or bidirectional, padding kept; the end token, the first or the last position pooled."""
    causal = getattr(text, "attn_mask", None) is not None
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", "argmax")
    pooled = POOLED.get((causal, pool))
    if pooled is None or getattr(text, "cls_emb", None) is not None or getattr(text, "use_pad_mask", False):
        raise UserError(f"text towers with {'' if causal else 'no '}causal mask and pooling {pool!r} are not supported")
    end_id = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None)
    return TextParts(
        blocks=[convert(b) for b in text.transformer.resblocks], token_embedding=text.token_embedding,
        position=text.positional_embedding, final_norm=text.ln_final, project=as_projection(text.text_projection),
        tokenizer=tokenizer, context_length=text.context_length, starts=tokenizer.starts, pad_id=tokenizer.pad_id,
        ends=tokenizer.ends, end_id=end_id if pool == "eos" else None, causal=causal, pad_masked=False, pooled=pooled,
    )  # fmt: skip


def _bert(text, tokenizer, context):
    """Bidirectional, padding masked, [CLS] pooled."""
    bert = text.transformer
    pooler = type(text.pooler).__name__
    if type(bert).__name__ != "BertModel" or pooler not in ("ClsLastHiddenStatePooler", "ClsPooler"):
        raise UserError(f"text towers {type(bert).__name__} with {pooler} are not supported; BERT pooled at [CLS] is")
    blocks = [convert(b) for b in bert.encoder.layer]
    dense = bert.pooler if pooler == "ClsPooler" else None
    table = bert.embeddings
    return TextParts(
        blocks=blocks, token_embedding=table.word_embeddings,
        position=table.position_embeddings.weight,
        type_embedding=nn.Parameter(table.token_type_embeddings.weight[0].detach().clone()),
        embed_norm=table.LayerNorm,
        project=nn.Sequential(dense.dense, dense.activation, text.proj) if dense is not None else text.proj,
        tokenizer=tokenizer, context_length=min(context, table.position_embeddings.num_embeddings),
        starts=True, pad_id=bert.config.pad_token_id, causal=False, pad_masked=True, pooled="first",
        dropout=(bert.config.hidden_dropout_prob, bert.config.attention_probs_dropout_prob),
    )  # fmt: skip


def image_parts(visual):
    """ImageParts of an open_clip visual tower; without blocks where they have parts that ours have not."""
    tower = type(getattr(visual, "trunk", visual))
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    kind = {"ModifiedResNet": "ResNet", "VisionTransformer": "ViT"}.get(tower.__name__, tower.__name__)
    if kind == "ViT":
        try:
            return (_timm_vision if tower.__module__.startswith("timm") else _clip_vision)(visual, size)
        except UserError as other:
            kind = f"ViT with other parts ({other})"
    return ImageParts(kind=kind, stem=visual, size=size)


def _clip_vision(visual, size):
    stem = Stem(_Patches(visual.conv1), visual.class_embedding[None], visual.positional_embedding)
    one = visual.attn_pool is None and visual.pool_type == "tok"
    if one:
        head = nn.Sequential(_First(), visual.ln_post, as_projection(visual.proj))
    else:
        head = _Pooled(_ClipPool(visual), as_projection(visual.proj))
    return ImageParts(
        kind="ViT", stem=stem, size=size, pre_norm=visual.ln_pre,
        blocks=[convert(b) for b in visual.transformer.resblocks], head=head,
        norm=visual.ln_post if one else head[0].token_norm, prefix=1, one_token=one,
    )  # fmt: skip


def _timm_vision(visual, size):
    trunk = visual.trunk
    if trunk.dynamic_img_size or trunk.pos_embed is None:
        raise UserError("positions that are no table")
    tokens = [t[0] for t in (trunk.cls_token, trunk.reg_token) if t is not None]
    prefix = torch.cat(tokens) if tokens else None
    position = trunk.pos_embed[0]
    if trunk.no_embed_class and prefix is not None:
        position = torch.cat([torch.zeros_like(prefix), position])
    one = trunk.attn_pool is None and trunk.global_pool == "token"
    after = nn.Sequential(trunk.fc_norm, trunk.head, visual.head)
    head = nn.Sequential(_First(), trunk.norm, after) if one else _Pooled(_TimmPool(trunk), after)
    return ImageParts(
        kind="ViT", stem=Stem(trunk.patch_embed, prefix, position), size=size, pre_norm=trunk.norm_pre,
        blocks=[convert(b) for b in trunk.blocks], head=head, norm=trunk.norm, prefix=trunk.num_prefix_tokens,
        one_token=one,
    )  # fmt: skip


class Stem(nn.Module):
    """Images -> [prefix tokens, patches] + positions: (B, S, d_v)."""

    def __init__(self, patches, prefix, position):
        super().__init__()
        self.patches = patches
        self.prefix = None if prefix is None else nn.Parameter(prefix.detach().clone())  # (P, d_v)
        self.position = nn.Parameter(position.detach().clone())  # (S, d_v)

    def forward(self, images):
        x = self.patches(images)  # (B, N, d_v)
        if self.prefix is not None:
            x = torch.cat([self.prefix.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.position.to(x.dtype)


class _Patches(nn.Module):
    """A strided convolution as rows: (B, N, d_v)."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, images):
        return self.conv(images).flatten(2).mT


class _First(nn.Module):
    """The class token (B, d_v)."""

    def forward(self, x):
        return x[:, 0]


class _Pooled(nn.Sequential):
    """Pooling over tokens (its norm included), then what follows."""


class _ClipPool(nn.Module):
    """open_clip's average or attention pooling."""

    def __init__(self, visual):
        super().__init__()
        self.ln_post, self.attn_pool = visual.ln_post, visual.attn_pool
        self.kind, self.norm_last = visual.pool_type, visual.final_ln_after_pool
        if self.kind == "none" or getattr(visual, "attn_pool_contrastive", None) is not None:
            raise UserError("CoCa's two poolers")

    @property
    def token_norm(self):
        return None if self.attn_pool is not None or self.norm_last else self.ln_post

    def forward(self, x):
        if self.attn_pool is not None:
            x = self.ln_post(self.attn_pool(x))
            return x[:, 0] if self.kind == "tok" else x[:, 1:].mean(dim=1)
        if self.norm_last:
            return self.ln_post(x[:, 1:].mean(dim=1))
        return self.ln_post(x)[:, 1:].mean(dim=1)


class _TimmPool(nn.Module):
    """timm's attention pooling (SigLIP) or average."""

    def __init__(self, trunk):
        super().__init__()
        self.norm, self.attn_pool = trunk.norm, trunk.attn_pool
        self.kind, self.skip = trunk.global_pool, 0 if trunk.pool_include_prefix else trunk.num_prefix_tokens
        if self.attn_pool is None and self.kind not in ("avg", "max", "avgmax"):
            raise UserError(f"pooling {self.kind!r}")

    def forward(self, x):
        x = self.norm(x)[:, self.skip :]
        if self.attn_pool is not None:
            return self.attn_pool(x)
        mean, top = x.mean(dim=1), x.amax(dim=1)
        return {"avg": mean, "max": top, "avgmax": 0.5 * (mean + top)}[self.kind]
