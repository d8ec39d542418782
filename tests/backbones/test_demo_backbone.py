"""The demo backbone: small, loads with plain open_clip, and is neither blind nor perfect on phantom."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from cilmp.datasets import phantom

DEMO = Path(__file__).resolve().parents[2] / "backbones" / "demo"


@pytest.fixture(scope="module")
def model():
    open_clip.add_model_config(DEMO / "model.json")
    return open_clip.create_model("model", pretrained=str(DEMO / "model.safetensors")).eval()


def pictures(names, count):
    """Normalised images (N, 3, 64, 64) of the data set's test partition and their labels (N,)."""
    images = [phantom.draw(n, phantom.generator(phantom.SEEDS["test"], n, i)) for n in names for i in range(count)]
    facts = json.loads((DEMO / "preprocess.json").read_text())
    pixels = (torch.from_numpy(np.stack(images)) / 255 - torch.tensor(facts["mean"])) / torch.tensor(facts["std"])
    return pixels.permute(0, 3, 1, 2), torch.arange(len(names)).repeat_interleave(count)


def sentences(model, names, template="a photo of a {}."):
    tokens = open_clip.get_tokenizer("ViT-B-32")([template.format(n) for n in names])
    return F.normalize(model.encode_text(tokens), dim=-1)


def test_file_is_small_and_half_precision():
    path = DEMO / "model.safetensors"
    assert path.stat().st_size <= 20e6
    with safe_open(path, framework="pt") as tensors:
        assert {tensors.get_tensor(k).dtype for k in tensors.keys()} == {torch.float16}  # noqa: SIM118


def test_every_stored_weight_is_finite_and_belongs_to_the_model(model):
    state = load_file(DEMO / "model.safetensors")
    assert state.keys() == model.state_dict().keys()
    assert all(bool(torch.isfinite(v).all()) for v in state.values())
    assert torch.equal(state["ln_final.weight"].float(), model.ln_final.weight)


def test_shape_of_the_towers(model):
    assert model.token_embedding.weight.shape[0] == 49408 and model.context_length == 77
    assert model.transformer.layers >= 4 and model.visual.transformer.layers >= 4
    rest = sum(p.numel() for p in model.parameters()) - model.token_embedding.weight.numel()
    assert 1e6 <= rest <= 4e6
    assert torch.triu(torch.ones(77, 77), 1).bool().equal(torch.isinf(model.attn_mask)), "text must be causal"


@pytest.mark.parametrize("half", ["base", "new"])
@torch.no_grad()
def test_zero_shot_leaves_room_on_both_sides(model, half):
    names = phantom.CLASSES[:6] if half == "base" else phantom.CLASSES[6:]
    images, labels = pictures(names, phantom.COUNTS["test"])
    features = F.normalize(model.encode_image(images), dim=-1)
    accuracy = ((features @ sentences(model, names).T).argmax(1) == labels).float().mean().item()
    assert 0.40 <= accuracy <= 0.80


@torch.no_grad()
def test_names_are_understood_late_in_the_text(model):
    """After fifty words that say nothing a name still lies nearest to itself: long prompts are not foreign."""
    late = sentences(model, phantom.CLASSES, "the image and the view of this case " * 6 + "a photo of a {}.")
    nearest = (late @ sentences(model, phantom.CLASSES).T).argmax(1)
    assert (nearest == torch.arange(12)).float().mean() >= 0.9
