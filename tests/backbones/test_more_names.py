"""Names beyond the first families: true facts, and prompts that reach what their towers compute."""

import json

import pytest
import torch
import torch.nn.functional as F

from cilmp import backbones
from cilmp.backbones.factory import build, tokenizer_of
from cilmp.backbones.recipes import resolve
from cilmp.backbones.registry import BIOMED_BERT, OPENAI_MEAN, OPENAI_STD
from cilmp.benchmarks.plain.image import plain_image
from cilmp.benchmarks.plain.text import Slot, plain_text
from cilmp.tests.backbones.small_models import MORE, images, original, small, tokenizer
from dassl.utils.errors import UserError

CLIP = (OPENAI_MEAN, OPENAI_STD, "bicubic")
HALF = ((0.5,) * 3, (0.5,) * 3, "bicubic")
# name: (context, words, vision width, layers, patch, quick GELU, vocabulary, normalisation)
FACTS = {
    "QuiltNet-B-32": (77, 49408, 768, 12, 32, False, None, CLIP),
    "QuiltNet-B-16": (77, 49408, 768, 12, 16, False, None, CLIP),
    "QuiltNet-B-16-PMB": (256, None, None, None, None, False, BIOMED_BERT, CLIP),
    "MedPMC-CLIP": (77, 49408, 1024, 24, 14, False, None, CLIP),
    "DermLIP": (77, 49408, 768, 12, 16, False, None, CLIP),
    "SigLIP2": (64, 256000, None, None, None, False, "timm/ViT-B-16-SigLIP2", HALF),
    "MetaCLIP2": (77, 901629, 1280, 32, 14, True, "facebook/xlm-v-base", CLIP),
}
TEXTS = ["a photo of a cat.", "x", "malignant tumour of the upper left lung, seen from the side"]


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_the_published_configurations(name):
    context, words, width, layers, patch, quick, vocabulary, normalisation = FACTS[name]
    recipe = resolve(name, "random")
    text, vision = recipe.config["text_cfg"], recipe.config["vision_cfg"]
    assert text["context_length"] == context and text.get("vocab_size") == words
    assert [vision.get(k) for k in ("width", "layers", "patch_size")] == [width, layers, patch]
    assert recipe.config.get("quick_gelu", False) is quick and text.get("hf_tokenizer_name") == vocabulary
    assert (recipe.mean, recipe.std, recipe.interpolation) == normalisation and recipe.size == 224


def unit_gap(a, b):
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).abs().max().item()


@pytest.mark.parametrize("family", MORE)
@torch.no_grad()
def test_features_without_prompts_are_open_clips(family):
    model, clip = original(family), small(family)
    assert unit_gap(clip.text.encode_strings(TEXTS), model.encode_text(ids(family, TEXTS))) < 1e-5
    assert unit_gap(clip.image.encode(images(family)), model.encode_image(images(family))) < 1e-5


def ids(family, texts):
    return tokenizer(family)(texts, original(family).context_length)


def prompts(*shape, depth):
    g = torch.Generator().manual_seed(3)
    return [(torch.randn(shape, generator=g) * 0.5).requires_grad_() for _ in range(depth)]


def reach(fast, plain, bare, levels):
    """Prompts change the features, as much as in the plain form, and get its gradients."""
    assert unit_gap(fast, plain) < 1e-5 and unit_gap(fast.detach(), bare) > 1e-3
    weights = torch.linspace(-1, 1, fast.numel()).view_as(fast)
    wanted = torch.autograd.grad((plain.view_as(fast) * weights).sum(), levels)
    for a, b in zip(torch.autograd.grad((fast * weights).sum(), levels), wanted):
        assert b.norm() > 1e-4 and (a - b).norm() / b.norm() < 1e-4


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("family", MORE)
def test_text_prompts_reach_the_feature(family, depth):
    text, levels = small(family).text, prompts(1, 1, 3, 32, depth=depth)
    plain = plain_text(original(family), ids(family, TEXTS), [Slot(levels, int(text.starts))])[0]
    reach(text.encode(text.frame(TEXTS, [3]).fill(levels)), plain, text.encode_strings(TEXTS), levels)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("family", [f for f in MORE if f != "mobileclip"])
def test_visual_prompts_reach_the_feature(family, depth):
    image, pictures, levels = small(family).image, images(family), prompts(4, 48, depth=depth)
    plain = plain_image(original(family), pictures, levels)
    reach(image.encode(pictures, levels[0], levels[1:]), plain, image.encode(pictures), levels)


# ---- DermLIP: what its weights were trained with, only the configuration beside them says

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 1},
    "text_cfg": {"width": 32, "heads": 2, "layers": 1, "context_length": 77, "vocab_size": 49408},
}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("place", ["hub", "file"])
def test_dermlip_is_built_as_the_configuration_beside_its_weights_says(place, quick, tmp_path, monkeypatch):
    config = {**SMALL, "quick_gelu": quick}
    torch.save(build(config, seed=1).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    facts = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bilinear"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": facts}))

    def cached(repository, filename, kind=None, revision=None):
        assert repository == "redlessone/DermLIP_ViT-B-16"
        return str(tmp_path / filename) if (tmp_path / filename).is_file() else None

    monkeypatch.setattr("dassl.utils.hub.cached", cached)
    file = str(tmp_path / "open_clip_pytorch_model.bin") if place == "file" else None
    clip = backbones.load("DermLIP", file)
    assert clip.name == ("DermLIP" if place == "hub" else "DermLIP-open_clip_pytorch_model")
    assert type(clip.image.blocks[0].act).__name__ == ("QuickGELU" if quick else "GELU")
    assert backbones.input_facts("DermLIP", file)["mean"] == (0.1, 0.2, 0.3)
    assert len(backbones.weights_sha256("DermLIP", file)) == 64


def test_dermlips_weights_alone_do_not_say_their_activation(tmp_path):
    torch.save(build(SMALL, seed=1).state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="does not say which activation"):
        backbones.load("DermLIP", str(tmp_path / "x.pt"))
    assert backbones.weights_sha256("DermLIP", "random") == "random"


# ---- at true size

TRUE = ("QuiltNet-B-32", "QuiltNet-B-16-PMB", "MedPMC-CLIP", "DermLIP", "SigLIP2", "MetaCLIP2")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUE)
def test_prompts_reach_towers_of_true_size(name, monkeypatch):
    """All of it but MetaCLIP 2's 900 000 words: a small table stands for them."""
    recipe = resolve(name, "random:1")
    if name == "MetaCLIP2":
        recipe.config["text_cfg"]["vocab_size"] = 3000
    model = build(recipe.config, recipe.bert, seed=1)
    encode = tokenizer_of(recipe)
    wanted = model.encode_text(encode(TEXTS, model.context_length)), model.encode_image(torch.ones(1, 3, 224, 224))
    clip = backbones.factory.wrap(model, encode, backbones.factory.facts_of(recipe))
    text, image = clip.text, clip.image
    with torch.no_grad():
        bare = text.encode_strings(TEXTS), image.encode(torch.ones(1, 3, 224, 224))
    assert all(unit_gap(a, b) < 1e-4 for a, b in zip(bare, wanted))
    words, patches = prompts(1, 1, 3, text.width, depth=3), prompts(4, image.width, depth=3)
    features = (
        text.encode(text.frame(TEXTS, [3]).fill(words)),
        image.encode(torch.ones(1, 3, 224, 224), patches[0], patches[1:]),
    )
    for made, alone, levels in zip(features, bare, (words, patches)):
        assert unit_gap(made.detach(), alone) > 1e-4
        weights = torch.linspace(-1, 1, made.numel()).view_as(made)
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad((made * weights).sum(), levels))
