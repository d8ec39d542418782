"""Our towers without prompts say what open_clip's own encode_image and encode_text say, for every family."""

import pytest
import torch
import torch.nn.functional as F

from cilmp import backbones
from cilmp.backbones.blocks import Block, convert
from cilmp.benchmarks.plain.image import plain_image
from cilmp.benchmarks.plain.text import Slot, plain_text
from cilmp.tests.backbones.small_models import FAMILIES, images, original, small, tokenizer

TEXTS = ["a photo of a cat.", "x", "malignant tumour of the upper left lung, seen from the side", "polyps."]


def unit_gap(a, b):
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).abs().max().item()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_image_features_are_open_clips(family):
    pictures = images(family)
    wanted = original(family).encode_image(pictures)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2, "these images must not look alike"
    torch.testing.assert_close(small(family).image.encode(pictures), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_text_features_are_open_clips(family):
    model = original(family)
    wanted = model.encode_text(tokenizer(family)(TEXTS, model.context_length))
    assert F.normalize(wanted, dim=-1).mm(F.normalize(wanted, dim=-1).T).fill_diagonal_(0).max() < 0.999
    assert unit_gap(small(family).text.encode_strings(TEXTS), wanted) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_plain_form_without_prompts_is_open_clip(family):
    model = original(family)
    ids = tokenizer(family)(TEXTS, model.context_length)
    torch.testing.assert_close(plain_text(model, ids)[0], model.encode_text(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_facts(family):
    model, clip = original(family), small(family)
    with torch.no_grad():
        assert clip.embed_dim == model.encode_image(images(family)).shape[-1]
    assert clip.vision_width == {"resnet": None}.get(family, 48)
    assert clip.vision_layers == {"resnet": 0}.get(family, 3)
    assert (clip.text_width, clip.text_layers) == (32, 4)
    assert clip.context_length == {"bert": 64, "siglip": 40}.get(family, 77)
    assert clip.scale().item() == pytest.approx(20.0)
    assert not clip.training and not any(p.requires_grad for p in clip.parameters())


@pytest.mark.parametrize("family", ["openai", "bert", "siglip"])
@torch.no_grad()
def test_blocks_equal_their_originals(family):
    visual = original(family).visual
    theirs = visual.transformer.resblocks[1] if family == "openai" else visual.trunk.blocks[1]
    block = convert(theirs)
    x = torch.randn(2, 7, 48)
    assert isinstance(block, Block) and block.norm == "pre" and block.heads == 3
    torch.testing.assert_close(block(x), theirs(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bert_layers_are_post_norm_and_masked():
    layer = original("bert").text.transformer.encoder.layer[1]
    block = convert(layer)
    x, real = torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    real[0, 5:] = False
    wanted = layer(x, torch.zeros(2, 1, 1, 7).masked_fill(~real[:, None, None], -1e30))
    wanted = wanted if torch.is_tensor(wanted) else wanted[0]
    torch.testing.assert_close(block(x, real[:, None, None]), wanted, atol=1e-5, rtol=1e-5)
    assert block.norm == "post"
    assert not torch.allclose(block(x)[0], wanted[0], atol=1e-3), "the mask must matter"


def test_weights_hash_follows_the_weights():
    one, same, other = small("openai"), small("openai"), small("openai", seed=1)
    assert one.weights_hash == same.weights_hash != other.weights_hash


@torch.no_grad()
def test_half_precision_keeps_the_scale_exact():
    clip = backbones.load("demo", precision="bf16")
    full = backbones.load("demo")
    assert clip.dtype == torch.bfloat16 and clip.image.dtype == torch.bfloat16
    assert clip.logit_scale.dtype == torch.float32 and clip.scale() == full.scale()
    pictures = torch.randn(2, 3, 64, 64)
    near = F.cosine_similarity(clip.image.encode(pictures).float(), full.image.encode(pictures))
    assert near.min() > 0.99


@pytest.fixture(scope="module")
def full_size():
    """ViT-B/16 as our towers and as open_clip's, same random weights."""
    from cilmp.backbones.factory import build
    from cilmp.backbones.recipes import resolve

    clip = backbones.load("ViT-B/16", weights="random:3")
    return clip, build(resolve("ViT-B/16", "random:3").config, seed=3), torch.randn(2, 3, 224, 224)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_vit_b16_equals_open_clip(full_size):
    clip, model, pictures = full_size
    assert unit_gap(clip.image.encode(pictures), model.encode_image(pictures)) < 1e-5
    assert unit_gap(clip.text.encode_strings(TEXTS), model.encode_text(tokenizer("openai")(TEXTS, 77))) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_full_size_vit_b16_with_deep_prompts_equals_the_plain_form(full_size):
    clip, model, pictures = full_size
    levels = torch.randn(12, 4, 768)
    fast = clip.image.encode(pictures, levels[0], levels[1:])
    assert unit_gap(fast, plain_image(model, pictures, levels)) < 1e-5
    ctx, rows = list(torch.randn(12, 1, 1, 4, 512) * 0.1), list(torch.randn(12, 2, 4, 8, 512) * 0.1)
    lengths, tails = [8, 3, 5, 8], [f"{t.rstrip('.')}." for t in TEXTS]
    fast = clip.text.encode(clip.text.frame(tails, [4, lengths]).fill(ctx, rows))
    plain = plain_text(model, tokenizer("openai")(tails, 77), [Slot(ctx), Slot(rows, 1, lengths)])
    assert unit_gap(fast, plain) < 1e-5
