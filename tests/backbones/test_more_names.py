"""Names beyond the first families: true facts, and prompts that reach what their towers compute."""

import collections
import json
import re

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from cilmp import backbones
from cilmp.backbones import hub
from cilmp.backbones.factory import build, tokenizer_of
from cilmp.backbones.families import image_parts, text_parts
from cilmp.backbones.recipes import resolve
from cilmp.backbones.registry import BIOMED_BERT, OPENAI_MEAN, OPENAI_STD, ROWS
from cilmp.benchmarks.plain.image import plain_image
from cilmp.benchmarks.plain.text import Slot, plain_text
from cilmp.tests.backbones.small_models import MORE, OTHER_TOWERS, images, original, small, tokenizer
from dassl.config import get_cfg_default
from dassl.data.transforms import build_transform
from dassl.utils.errors import UserError
from dassl.utils.hub import HubError
from dassl.utils.paths import REPO

CLIP = (OPENAI_MEAN, OPENAI_STD, "bicubic", "shortest")
HALF = ((0.5,) * 3, (0.5,) * 3, "bicubic", "squash")
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
    assert (recipe.mean, recipe.std, recipe.interpolation, recipe.resize_mode) == normalisation and recipe.size == 224


PAIRS = ("ViT-B-16-SigLIP::webli", "ViT-B-16-SigLIP2::webli", "ViT-L-14-CLIPA::datacomp1b", "ViT-B-32::openai",
         "ViT-B-16::dfn2b", "ViT-H-14-worldwide-quickgelu::metaclip2_worldwide", "MobileCLIP2-S0::dfndr2b")  # fmt: skip


@pytest.mark.parametrize("name", ["SigLIP", "SigLIP2", "MetaCLIP2", "ViT-B/16", *PAIRS])
@pytest.mark.parametrize("shape", [(60, 31), (31, 60)], ids=["wide", "high"])
def test_images_are_tested_as_open_clip_prepares_them(name, shape):
    """The whole picture squeezed into the square where the weights were trained so (SigLIP, CLIPA), else its middle."""
    recipe = resolve(name, None)
    model, tag = name.split("::") if "::" in name else (ROWS[name].arch, ROWS[name].tag)
    facts = open_clip.get_pretrained_cfg(model, tag)
    asked = {k: facts[k] for k in ("mean", "std", "interpolation", "resize_mode")}
    theirs = image_transform_v2(PreprocessCfg(size=recipe.size, **asked), is_train=False)
    cfg, facts = get_cfg_default(), backbones.input_facts(name)
    cfg.INPUT.SIZE = (facts["size"],) * 2
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(facts["mean"]), list(facts["std"])
    cfg.INPUT.INTERPOLATION, cfg.INPUT.RESIZE_MODE = facts["interpolation"], facts["resize_mode"]
    noise = np.random.default_rng(0).integers(0, 255, (*reversed(shape), 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    torch.testing.assert_close(build_transform(cfg, is_train=False)(picture), theirs(picture), atol=1e-6, rtol=0)


def test_a_resize_that_is_none_is_one_line(tmp_path):
    cfg = get_cfg_default()
    cfg.INPUT.RESIZE_MODE = "squish"
    with pytest.raises(UserError, match=r"INPUT.RESIZE_MODE 'squish' - did you mean 'squash'"):
        build_transform(cfg, is_train=False)
    facts = {"resize_mode": "longest"}
    (tmp_path / "x.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": facts}))
    torch.save(build(SMALL, seed=1).state_dict(), tmp_path / "x.pt")
    assert backbones.input_facts(str(tmp_path / "x.pt"))["resize_mode"] == "longest"
    cfg.INPUT.RESIZE_MODE = "longest"
    with pytest.raises(UserError, match=r"RESIZE_MODE 'longest'.*Known: shortest, squash"):
        build_transform(cfg, is_train=False)


def unit_gap(a, b):
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).abs().max().item()


@pytest.mark.parametrize("family", [*MORE, *OTHER_TOWERS])
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
@pytest.mark.parametrize("family", [*MORE, "convnext", "eva"])
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


# ---- what cannot be prompted: said before anything is fetched, or where prompts are put in


@pytest.mark.parametrize("family", OTHER_TOWERS)
def test_a_tower_that_no_prompt_reaches_says_what_it_is(family):
    with pytest.raises(UserError, match=f"image tower of type {OTHER_TOWERS[family]}: use a ViT"):
        small(family).image.encode(images(family), torch.zeros(2, 48))
    assert OTHER_TOWERS[family] in small(family).describe()


CLASSES = {  # {what the image tower is: open_clip's configurations}, as the table of docs/backbones.md says
    "ViT": 75, "ViTamin": 15, "Eva": 12, "ConvNeXt": 11, "ResNet": 10, "FastVit": 6, "SwinTransformer": 1,
    "VisionTransformerRelPos": 1, "refused": 13,
}  # fmt: skip


@pytest.mark.slow
def test_every_configuration_of_open_clip_is_of_a_class_of_the_table():
    """Built without memory: text prompts reach all that are not refused, visual ones the plain ViTs."""
    found = collections.Counter()
    for name in open_clip.list_models():
        try:
            recipe = resolve(name, "random")
        except UserError:
            found["refused"] += 1
            continue
        with torch.device("meta"):
            model = build(recipe.config)
            assert len(text_parts(model, tokenizer_of(recipe)).blocks) > 0, name
            parts = image_parts(model.visual)
        kind = "ViTamin" if name.startswith("ViTamin") else parts.kind
        assert bool(parts.blocks) == (kind == "ViT"), name
        found[kind] += 1
    assert found == CLASSES
    page = (REPO / "docs" / "backbones.md").read_text(encoding="utf-8")
    for kind, count in CLASSES.items():
        assert re.search(rf"^\|.*{kind}.*\| {count} \|$", page, re.MULTILINE), kind


PANDERM = {  # DermLIP's larger sister: its authors' own copy of open_clip has a setting that open_clip has not
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16, "pretrain_path": "panderm.pth"},
    "text_cfg": {"hf_model_name": "neuml/pubmedbert-base-embeddings", "context_length": 256,
                 "hf_tokenizer_name": "neuml/pubmedbert-base-embeddings", "hf_pooler_type": "mean_pooler"},
}  # fmt: skip
REFUSED = {
    "coca_ViT-B-32": "CoCa",
    "coca_roberta-ViT-B-32": "CoCa",
    "nllb-clip-base": "nllb-200-distilled-600M",
    "nllb-clip-large-siglip": "nllb-200-distilled-1.3B",
    "mt5-base-ViT-B-32": "mt5-base.*mean_pooler",
    "roberta-ViT-B-32": "roberta-base.*mean_pooler",
    "xlm-roberta-large-ViT-H-14": "xlm-roberta-large.*mean_pooler",
}


@pytest.fixture
def nothing_is_fetched(monkeypatch):
    for name in ("hub_files", "pretrained_file"):
        monkeypatch.setattr(hub, name, lambda *args, **kwargs: pytest.fail("asked the hub"))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("weights", ["random", "published"])
def test_text_towers_of_other_kinds_are_refused_before_anything_is_fetched(name, weights, nothing_is_fetched):
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights == "published" and not tags:
        pytest.skip("none are published")
    with pytest.raises(UserError, match=REFUSED[name]) as error:
        backbones.load(f"{name}::{'random' if weights == 'random' else tags[0]}")
    assert name in str(error.value) and "use another backbone" in str(error.value) and "\n" not in str(error.value)


def test_an_architecture_of_somebody_elses_open_clip_is_one_line(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": PANDERM, "preprocess_cfg": {}}))
    torch.save({"x": torch.zeros(1)}, tmp_path / "panderm.pt")
    with pytest.raises(UserError, match=r"vision_cfg\.pretrain_path") as error:
        backbones.load(str(tmp_path / "panderm.pt"))
    assert "use another backbone" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{}, {"model_cfg": []}, {"model_cfg": {"vision_cfg": 1, "text_cfg": {}}}])
def test_a_configuration_of_something_else_is_one_line(content, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"none of open_clip's"):
        backbones.input_facts(str(tmp_path / "x.pt"))


def test_a_text_configuration_that_cannot_be_had_is_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise HubError("the hub cannot be reached")

    monkeypatch.setattr("dassl.utils.hub._ask", refuse)
    monkeypatch.setattr(backbones.recipes, "_open_clip_config", lambda model: {**SMALL, "text_cfg": {
        "hf_model_name": "somebody/OtherBERT", "hf_pooler_type": "cls_pooler"}})  # fmt: skip
    with pytest.raises(UserError, match=r"somebody/OtherBERT.*cannot be reached") as error:
        backbones.load("ViT-B-32::random")
    assert "\n" not in str(error.value)
